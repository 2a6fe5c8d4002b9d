// Verifying a table version: every row is read back from NVMe and compared with the digest taken
// when it was loaded, with the checkpoint when one is given, and with the copy that DRAM holds; and
// the files are looked at on the drive, past what is open.
// Nothing is admitted to any tier.
#ifndef ENGRAM_SERVER_JOBS_VERIFY_JOB_H_
#define ENGRAM_SERVER_JOBS_VERIFY_JOB_H_

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tables/tables.h"

namespace engram {

class HbmCache;

struct VerifyParameters {
  std::string table;
  VersionId version = kActiveVersion;
  std::string checkpoint;                 // absolute directory, or empty
  std::string model = "auto";             // the table's own family
  std::vector<std::string> tensors = {};  // for family `generic`
  bool allow_unverified = false;
  const HbmCache* hbm = nullptr;  // whose rows are compared too; may be null
};

struct VerifyStatus {
  uint64_t rows_done = 0;
  uint64_t rows_total = 0;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t dram_rows = 0;  // rows held in DRAM that were compared
  uint64_t hbm_rows = 0;
  uint64_t bad_rows = 0;              // differ, or cannot be read
  std::vector<std::string> problems;  // the first kMaxProblems
};

inline constexpr size_t kMaxProblems = 20;

// FailedPrecondition, naming the difference, unless the rows of a table can be compared with those
// of a checkpoint: as many, as long, of one format and in the same columns. What a table of an
// earlier release does not say (its hash) is not asked for.
absl::Status CheckSameShape(const TableSpec& table, const TableSpec& checkpoint);

// Blocks. A table with bad rows is not an error of this call: see bad_rows and problems.
// `progress` as for RunLoad. NotFound, also when the version is dropped meanwhile, soon after that;
// FailedPrecondition: the checkpoint is of another shape.
absl::StatusOr<VerifyStatus> RunVerify(const Tables& tables, const VerifyParameters& parameters,
                                       const std::atomic<bool>& cancelled,
                                       const std::function<bool(const VerifyStatus&)>& progress);

}  // namespace engram

#endif  // ENGRAM_SERVER_JOBS_VERIFY_JOB_H_
