// DramObserver: notified by Tables of what becomes of DRAM, so that its rows can outlive a switch
// of versions and a restart. Tables knows nothing else of it.
#ifndef ENGRAM_SERVER_TABLES_DRAM_OBSERVER_H_
#define ENGRAM_SERVER_TABLES_DRAM_OBSERVER_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "storage/nvme/store.h"

namespace engram {

struct OpenTable;

// Called during a change of the tables: an implementation may read them, and may not change them.
// BeforeSwitch may block for as long as it takes to write a file.
class DramObserver {
 public:
  virtual ~DramObserver() = default;

  // Another version of this table is about to become active.
  virtual void BeforeSwitch(const OpenTable& outgoing) = 0;
  // DRAM has been divided again: caches may be new, or gone.
  virtual void AfterChange() = 0;
  // Versions of this table have been dropped; `left` are all that remain, of any table.
  virtual void AfterDrop(absl::string_view table, const std::vector<TableRecord>& left) = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_DRAM_OBSERVER_H_
