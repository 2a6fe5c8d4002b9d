// The lines of the suite nvme, one function each; they share a table that is loaded once.
#ifndef ENGRAM_TESTS_BENCH_NVME_LINES_H_
#define ENGRAM_TESTS_BENCH_NVME_LINES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/cold_lookups.h"
#include "tests/bench/report.h"
#include "tests/bench/uring_reads.h"

namespace engram::bench {

inline constexpr size_t kMaxRowsPerCall = 8192;

// What all lines are measured with.
struct NvmeRun {
  Reporter& reporter;
  const ScratchDirectory& scratch;
  TablePlan plan;
  int rounds = 5;
  double round_seconds = 3;
  uint64_t seed = 20261124;  // counts up: no two rounds ask for the same ids
  std::string only = {};     // lines whose names begin so; empty: all

  bool Wanted(absl::string_view line) const { return absl::StartsWith(line, only); }
  bool quick() const { return plan.quick; }
};

// Makes the table in `run.scratch`, and loads it.
absl::Status LoadTable(const NvmeRun& run);

// A daemon that serves the table from the drive alone, and random reads of the table's own files.
struct ServedTable {
  std::unique_ptr<Daemon> daemon;
  std::unique_ptr<RandomReader> reader;
  std::string io;
};
absl::StatusOr<ServedTable> Serve(const NvmeRun& run, int depth);

// Rows a second, in several ways of asking; nvme/depth_*.
absl::Status MeasureThroughput(NvmeRun& run);
bool WantsThroughput(const NvmeRun& run);
// The same against rows in a flat file; nvme/flat_file.
absl::Status MeasureFlatFile(NvmeRun& run);
// A decode token's rows; nvme/latency_48.
absl::Status MeasureLatency(NvmeRun& run);
// Health checks while cold reads are queued; nvme/health.
absl::Status MeasureHealth(NvmeRun& run);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_NVME_LINES_H_
