// nvme/depth_*: rows a second as Lookup returns them, uniform ids, against random 4 KiB reads of
// the same files at the same depth.
#include <algorithm>
#include <iterator>

#include "storage/base/status_macros.h"
#include "tests/bench/nvme_lines.h"

namespace engram::bench {
namespace {

struct Workload {
  const char* name;
  size_t rows_per_call;
  int calls;  // in flight, each from a thread of the client's
  int depth;  // page reads that the daemon may have in flight: the baseline's, too
};

// With one call in flight the drive waits while an answer crosses the socket; with two it need not.
// Calls of 32 rows bring no more reads than the depth from outside.
constexpr Workload kWorkloads[] = {
    {"nvme/depth_32", kMaxRowsPerCall, 1, 32},
    {"nvme/depth_128", kMaxRowsPerCall, 1, 128},
    {"nvme/depth_128/two_calls", kMaxRowsPerCall, 2, 128},
    {"nvme/depth_32/calls_of_32", 32, 1, 32},
    {"nvme/depth_128/calls_of_32", 32, 4, 128},
};

void Report(const NvmeRun& run, const Workload& workload, const ServedTable& table,
            const Samples& lookups, const Samples& reads) {
  Result result{.name = workload.name,
                .value = lookups.MedianOf(&Sample::rate),
                .unit = "rows/s",
                .baseline = reads.MedianOf(&Sample::rate),
                .details = {}};
  result.details = {
      {"depth", int64_t{workload.depth}},
      {"threads", int64_t{kDriveThreads}},
      {"rows_per_call", static_cast<int64_t>(workload.rows_per_call)},
      {"calls_in_flight", int64_t{workload.calls}},
      {"nvme_io", table.io},
      {"baseline_is", std::string("random 4 KiB O_DIRECT reads of the table's own files")},
      {"baseline_file_bytes", static_cast<int64_t>(table.reader->bytes())},
      {"rounds", int64_t{run.rounds}},
      {"round_seconds", run.round_seconds}};
  AddSamples(lookups, reads, result);
  run.plan.Describe(result);
  run.reporter.Print(result);
}

absl::Status Measure(NvmeRun& run, const Workload& workload) {
  ENGRAM_ASSIGN_OR_RETURN(const ServedTable table, Serve(run, workload.depth));
  ENGRAM_ASSIGN_OR_RETURN(
      const auto callers,
      ColdCallers::Connect(*table.daemon, run.plan.shape, workload.calls, workload.rows_per_call));
  Samples lookups;
  Samples reads;
  for (int round = 0; round < run.rounds; ++round) {
    ENGRAM_ASSIGN_OR_RETURN(const Sample rows,
                            callers->Round(run.round_seconds, run.seed++, run.scratch.path()));
    lookups.all.push_back(rows);
    ENGRAM_ASSIGN_OR_RETURN(const Sample pages,
                            ReadRound(*table.reader, workload.depth, run.round_seconds, run.seed++,
                                      run.scratch.path()));
    reads.all.push_back(pages);
  }
  Report(run, workload, table, lookups, reads);
  return table.daemon->process().Stop();
}

}  // namespace

bool WantsThroughput(const NvmeRun& run) {
  return std::any_of(std::begin(kWorkloads), std::end(kWorkloads),
                     [&run](const Workload& workload) { return run.Wanted(workload.name); });
}

absl::Status MeasureThroughput(NvmeRun& run) {
  for (const Workload& workload : kWorkloads) {
    if (run.Wanted(workload.name)) ENGRAM_RETURN_IF_ERROR(Measure(run, workload));
  }
  return absl::OkStatus();
}

}  // namespace engram::bench
