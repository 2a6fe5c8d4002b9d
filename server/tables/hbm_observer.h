// HbmObserver: told by Tables what becomes of versions, so that the HBM tier can follow.
// Tables know nothing else of it.
#ifndef ENGRAM_SERVER_TABLES_HBM_OBSERVER_H_
#define ENGRAM_SERVER_TABLES_HBM_OBSERVER_H_

#include <string>

namespace engram {

class HbmObserver {
 public:
  virtual ~HbmObserver() = default;

  // "off: …", or what the tier lies in. Never blocks.
  virtual std::string note() const = 0;
  // Versions came, went, or were switched. Called while that change holds the tables: must not
  // change them, nor wait for anybody who does.
  virtual void AfterChange() = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_HBM_OBSERVER_H_
