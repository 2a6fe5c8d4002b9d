// Prefetcher: reads rows into DRAM ahead of their look-up. Best effort, in the background.
//
// Thread-safe. A look-up waits for one piece of it at most: the Dispatcher puts look-ups first.
#ifndef ENGRAM_SERVER_LOOKUP_PREFETCHER_H_
#define ENGRAM_SERVER_LOOKUP_PREFETCHER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/lookup/dispatcher.h"
#include "server/lookup/lookup.h"
#include "server/tables/tables.h"

namespace engram {

class Prefetcher {
 public:
  struct Result {
    uint64_t accepted = 0;  // warm already, or queued
    // No DRAM tier to keep them in, too much is queued, or Stop was called. Of a large request all
    // rows then count, warm ones too: they are not looked up.
    uint64_t skipped = 0;
  };

  // Ids that may wait in tasks, 4 bytes each.
  static constexpr uint64_t kMaxQueuedRows = uint64_t{32} << 20;

  // At most what one look-up may ask for is prefetched by one request; `max_queued` requests'
  // layers of `max_queued_rows` ids in all may wait, besides the look-ups that wait in
  // `dispatcher`. What waits needs `dispatcher` and the tables, but not the Prefetcher.
  Prefetcher(const Tables* tables, Dispatcher* dispatcher, size_t max_queued,
             LookupLimits limits = {}, uint64_t max_queued_rows = kMaxQueuedRows);

  // Queues what DRAM does not hold of the rows that the look-up would ask for. Never blocks on the
  // drive. Errors as PlanRows, for the whole request.
  absl::StatusOr<Result> Prefetch(const LookupQuery& query, ClientId client = {},
                                  Urgency urgency = Urgency::kPrefetch);

  // Queues these rows of one layer, in any order; `table` keeps its stack alive. False when too
  // much is queued, or Stop was called.
  bool Enqueue(std::shared_ptr<const OpenTable> table, TierStack* stack, std::vector<RowId> ids,
               ClientId client = {}, Urgency urgency = Urgency::kPrefetch);

  // Drops what is queued and takes no more: the drive sees the pieces that are being read, and none
  // after them. Returns at once. For shutting down.
  void Stop();

 private:
  class Job;
  // What jobs share, and may outlive the Prefetcher with them. Relaxed: bounds on memory, and
  // nothing else hangs on them.
  struct Shared {
    std::atomic<uint64_t> rows{0};
    std::atomic<size_t> jobs{0};
    std::atomic<bool> stopped{false};
  };

  const Tables* const tables_;
  Dispatcher* const dispatcher_;
  const LookupLimits limits_;
  const size_t max_queued_;
  const uint64_t max_queued_rows_;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_PREFETCHER_H_
