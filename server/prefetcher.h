// Prefetcher: reads rows into DRAM before somebody asks for them. Best effort, in the background.
//
// Thread-safe. Never on the way of a look-up: it has threads and a bounded queue of its own.
#ifndef ENGRAM_SERVER_PREFETCHER_H_
#define ENGRAM_SERVER_PREFETCHER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/executor.h"
#include "server/lookup.h"
#include "server/tables.h"

namespace engram {

class Prefetcher {
 public:
  struct Result {
    uint64_t accepted = 0;  // warm already, or queued
    // No DRAM tier to keep them in, or too much is queued. Of a large request all rows then count,
    // warm ones too: nobody has looked.
    uint64_t skipped = 0;
  };

  // At most what one look-up may ask for is prefetched by one request.
  Prefetcher(const Tables* tables, int threads, size_t max_queued, LookupLimits limits = {});

  // Queues what DRAM does not hold of the rows that the look-up would ask for. Never blocks on the
  // drive. Errors as PlanRows, for the whole request.
  absl::StatusOr<Result> Prefetch(const LookupQuery& query);

 private:
  // False when too much is queued.
  bool Enqueue(std::shared_ptr<const OpenTable> table, TierStack* stack, std::vector<RowId> ids);
  static void Fill(TierStack& stack, const std::vector<RowId>& ids);

  const Tables* const tables_;
  const LookupLimits limits_;
  std::atomic<uint64_t> queued_rows_{0};
  Executor executor_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PREFETCHER_H_
