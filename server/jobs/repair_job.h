// Repairing a published version from its checkpoint: every chunk is read back, damaged ones are
// rewritten, all others are left as they are. Look-ups go on meanwhile.
//
// A repair that stops half way has repaired some chunks; the same call does the rest.
#ifndef ENGRAM_SERVER_JOBS_REPAIR_JOB_H_
#define ENGRAM_SERVER_JOBS_REPAIR_JOB_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/jobs/load_job.h"
#include "server/tables/tables.h"

namespace engram {

struct RepairCounts {
  uint64_t chunks = 0;  // of the version
  uint64_t damaged_chunks = 0;
  uint64_t damaged_rows = 0;  // rows of them that could not be read, or not be trusted
  uint64_t rewritten_chunks = 0;
  uint64_t rewritten_rows = 0;
  std::vector<std::string> problems;  // the first kMaxProblems
};

struct RepairResult {
  LoadResult load;  // of the version that was unfinished, and whose load was finished instead
  bool finished_load = false;
  RepairCounts counts;
};

// Blocks. Of the version asked for, or the one that holds this checkpoint; a version that is
// unfinished is loaded to its end. `progress` as for RunLoad; its phase is kVerify, then kRepair.
// NotFound: there is no such table or version. FailedPrecondition: no version holds this
// checkpoint, or the one asked for is of another shape or, in a damaged chunk, of other rows.
// DataLoss: a rewritten chunk reads back damaged.
absl::StatusOr<RepairResult> RunRepair(Tables& tables, const LoadParameters& parameters,
                                       const std::atomic<bool>& cancelled,
                                       const std::function<bool(const LoadStatus&)>& progress);

}  // namespace engram

#endif  // ENGRAM_SERVER_JOBS_REPAIR_JOB_H_
