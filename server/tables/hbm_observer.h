// HbmObserver: notified by Tables of changes of versions, so that the HBM tier can follow. Tables
// knows nothing else of it.
#ifndef ENGRAM_SERVER_TABLES_HBM_OBSERVER_H_
#define ENGRAM_SERVER_TABLES_HBM_OBSERVER_H_

#include <string>

namespace engram {

class HbmObserver {
 public:
  virtual ~HbmObserver() = default;

  // "off: …", or what the tier lies in. Never blocks.
  virtual std::string note() const = 0;
  // Versions came, went, or were switched. Called during that change: must neither change the
  // tables nor wait for a thread that does.
  virtual void AfterChange() = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_HBM_OBSERVER_H_
