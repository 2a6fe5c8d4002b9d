// Prefetcher: reads rows into DRAM before somebody asks for them. Best effort, in the background.
//
// Thread-safe. Never on the way of a look-up: it has threads and a bounded queue of its own.
#ifndef ENGRAM_SERVER_LOOKUP_PREFETCHER_H_
#define ENGRAM_SERVER_LOOKUP_PREFETCHER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/lookup/executor.h"
#include "server/lookup/lookup.h"
#include "server/tables/tables.h"

namespace engram {

class Prefetcher {
 public:
  struct Result {
    uint64_t accepted = 0;  // warm already, or queued
    // No DRAM tier to keep them in, too much is queued, or Stop was called. Of a large request all
    // rows then count, warm ones too: nobody has looked.
    uint64_t skipped = 0;
  };

  // Ids that may wait in tasks, 4 bytes each.
  static constexpr uint64_t kMaxQueuedRows = uint64_t{32} << 20;

  // At most what one look-up may ask for is prefetched by one request; `max_queued` tasks of
  // `max_queued_rows` ids in all may wait.
  Prefetcher(const Tables* tables, int threads, size_t max_queued, LookupLimits limits = {},
             uint64_t max_queued_rows = kMaxQueuedRows);
  // Fills what is queued, which may take minutes, unless Stop was called.
  ~Prefetcher() = default;

  // Queues what DRAM does not hold of the rows that the look-up would ask for. Never blocks on the
  // drive. Errors as PlanRows, for the whole request.
  absl::StatusOr<Result> Prefetch(const LookupQuery& query);

  // Queues these rows of one layer, in any order; `table` keeps its stack alive. False when too
  // much is queued, or Stop was called.
  bool Enqueue(std::shared_ptr<const OpenTable> table, TierStack* stack, std::vector<RowId> ids);

  // Drops what is queued and takes no more: the drive sees the blocks that are being read, and none
  // after them. Returns at once. For shutting down.
  void Stop();

 private:
  void Fill(TierStack& stack, std::vector<RowId>& ids);
  // Relaxed: nothing is handed over with it, and a block more or less does not matter.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  const Tables* const tables_;
  const LookupLimits limits_;
  const uint64_t max_queued_rows_;
  std::atomic<uint64_t> queued_rows_{0};
  std::atomic<bool> stopped_{false};
  Executor executor_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_PREFETCHER_H_
