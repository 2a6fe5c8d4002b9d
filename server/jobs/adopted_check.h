// AdoptedCheck: compares the rows that a daemon took over in DRAM from an earlier one with NVMe.
//
// Nothing in memory says whether what lies there is still what was once written, and a wrong row is
// served as right. So a thread of its own walks each layer that took rows over, ids ascending, and
// compares every row that DRAM holds with the drive, byte for byte. One row that differs is the end
// of the layer's whole tier: memory that holds one wrong row is not to be trusted with the others.
// A row that the drive cannot give says nothing about DRAM and is passed over.
//
// It stays out of the way: one batch at a time, and after each a pause as long as the batch took,
// so that it takes half of what one request might. It keeps no hold on a cache for longer than it
// takes to look for the next rows, and on a table no longer than a batch.
#ifndef ENGRAM_SERVER_JOBS_ADOPTED_CHECK_H_
#define ENGRAM_SERVER_JOBS_ADOPTED_CHECK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "server/tables/tables.h"
#include "storage/base/mutex.h"

namespace engram {

class AdoptedCheck {
 public:
  // Begins at once, on a thread of its own, with what `tables` hold now; `tables` outlives it.
  explicit AdoptedCheck(Tables* tables);
  // Stops, if it is not done.
  ~AdoptedCheck();
  AdoptedCheck(const AdoptedCheck&) = delete;
  AdoptedCheck& operator=(const AdoptedCheck&) = delete;

  // Waits for the batch under way and begins no more. For shutting down.
  void Stop();
  // Waits until all is checked, or Stop was called. For tests.
  void WaitUntilDone();

 private:
  // What a batch came to.
  struct Outcome {
    bool over = false;      // that was the last one
    bool no_cache = false;  // that took rows over; nothing was compared
    uint64_t rows = 0;      // compared
    std::optional<RowId> mismatch;
  };

  void Run(const std::vector<uint32_t>& stack_ids);
  // Checks one layer to its end.
  void CheckLayer(uint32_t stack_id);
  // Checks the next rows that DRAM holds from `next` on, and moves it behind them.
  Outcome CheckBatch(TierStack& stack, uint64_t& next);
  bool stopped();

  Tables* const tables_;
  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_JOBS_ADOPTED_CHECK_H_
