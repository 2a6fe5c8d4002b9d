// What the NVMe tier gives alone: rows a second and latency, against the drive itself.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/nvme_lines.h"
#include "tests/bench/suites.h"

namespace engram::bench {
namespace {

// A little over 8 GiB, to be clear of the bound.
constexpr uint64_t kTableBytes = (uint64_t{8} << 30) + (uint64_t{50} << 20);

}  // namespace

absl::Status LoadTable(const NvmeRun& run) {
  const std::string checkpoint = run.scratch.File("checkpoint");
  run.reporter.Note("making and loading the table");
  ENGRAM_RETURN_IF_ERROR(WriteCheckpoint(run.plan.shape, checkpoint));
  ENGRAM_ASSIGN_OR_RETURN(const auto daemon, Daemon::Start(run.scratch, 0));
  ENGRAM_RETURN_IF_ERROR(daemon->Load(kTableName, checkpoint).status());
  ENGRAM_RETURN_IF_ERROR(RemoveTree(checkpoint));
  return daemon->process().Stop();
}

absl::StatusOr<ServedTable> Serve(const NvmeRun& run, int depth) {
  ServedTable served;
  ENGRAM_ASSIGN_OR_RETURN(served.daemon, Daemon::Start(run.scratch, 0, DepthFlags(depth)));
  ENGRAM_ASSIGN_OR_RETURN(served.io, DescribeIo(*served.daemon));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> files, served.daemon->DataFiles());
  ENGRAM_ASSIGN_OR_RETURN(served.reader, RandomReader::Open(files));
  return served;
}

absl::Status RunNvmeSuite(const BenchOptions& options, Reporter& reporter) {
  ENGRAM_ASSIGN_OR_RETURN(const TablePlan plan, PlanTable(options, kTableBytes));
  ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options.dir));
  NvmeRun run{.reporter = reporter, .scratch = scratch, .plan = plan, .only = options.only};
  run.rounds = options.Rounds(run.rounds);
  if (options.quick) run.round_seconds = 0.1;
  if (!WantsThroughput(run) && !run.Wanted("nvme/flat_file") && !run.Wanted("nvme/latency_48") &&
      !run.Wanted("nvme/health")) {
    return absl::InvalidArgumentError(absl::StrCat("no line's name begins with '", run.only,
                                                   "': name one as it is printed, as nvme/depth"));
  }
  ENGRAM_RETURN_IF_ERROR(scratch.CheckOnDrive());
  // The table, and at first the checkpoint, later the flat file.
  ENGRAM_RETURN_IF_ERROR(scratch.CheckSpace(plan.shape.Bytes() * 21 / 10 + (uint64_t{64} << 20)));
  ENGRAM_RETURN_IF_ERROR(LoadTable(run));
  ENGRAM_RETURN_IF_ERROR(MeasureThroughput(run));
  if (run.Wanted("nvme/flat_file")) ENGRAM_RETURN_IF_ERROR(MeasureFlatFile(run));
  if (run.Wanted("nvme/latency_48")) ENGRAM_RETURN_IF_ERROR(MeasureLatency(run));
  if (run.Wanted("nvme/health")) ENGRAM_RETURN_IF_ERROR(MeasureHealth(run));
  return absl::OkStatus();
}

}  // namespace engram::bench
