// Prefetcher: reads rows into DRAM before somebody asks for them. Best effort, in the background.
//
// Thread-safe. Never on the way of a look-up: it has threads and a bounded queue of its own.
#ifndef ENGRAM_SERVER_PREFETCHER_H_
#define ENGRAM_SERVER_PREFETCHER_H_

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
    uint64_t skipped = 0;   // no DRAM tier to keep them in, or too much is queued
  };

  Prefetcher(const Tables* tables, int threads, size_t max_queued);

  // Queues what DRAM does not hold. Never blocks on the drive. Errors as Lookup::Start, for the
  // whole request.
  absl::StatusOr<Result> Prefetch(absl::string_view table, VersionId version,
                                  const std::vector<LayerQuery>& layers);

 private:
  static void Fill(const OpenTable& table, TierStack& stack, const std::vector<RowId>& ids);

  const Tables* const tables_;
  Executor executor_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PREFETCHER_H_
