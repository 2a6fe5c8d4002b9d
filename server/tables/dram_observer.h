// DramObserver: whoever sees to it that what DRAM holds outlives a switch of versions and a restart.
// Tables tell it what happens; they know nothing else of it.
#ifndef ENGRAM_SERVER_TABLES_DRAM_OBSERVER_H_
#define ENGRAM_SERVER_TABLES_DRAM_OBSERVER_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "storage/nvme/store.h"

namespace engram {

struct OpenTable;

// Called while one change of the tables is under way: none of these may change them, but they may
// look things up. BeforeSwitch may block for as long as it takes to write a file.
class DramObserver {
 public:
  virtual ~DramObserver() = default;

  // Another version of this one's table is about to become active.
  virtual void BeforeSwitch(const OpenTable& outgoing) = 0;
  // DRAM has been shared out: caches may be new, or gone.
  virtual void AfterChange() = 0;
  // Versions of this table are dropped; `left` are all that there are of any table.
  virtual void AfterDrop(absl::string_view table, const std::vector<TableRecord>& left) = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_DRAM_OBSERVER_H_
