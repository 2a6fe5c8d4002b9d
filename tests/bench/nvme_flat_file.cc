// nvme/flat_file: rows a second as Lookup returns them, against the same rows out of a flat file,
// read in this process, without a store, a check of what was read, or a socket.
#include "storage/base/status_macros.h"
#include "tests/bench/flat_file.h"
#include "tests/bench/nvme_lines.h"

namespace engram::bench {
namespace {

constexpr int kDepth = 128;

absl::StatusOr<Sample> FlatRound(const NvmeRun& run, const FlatFile& flat, uint64_t seed) {
  const DeviceMeter meter(run.scratch.path());
  ENGRAM_ASSIGN_OR_RETURN(const FlatFile::Outcome outcome,
                          flat.Run(kDepth, kMaxRowsPerCall, run.round_seconds, seed));
  const double count = static_cast<double>(outcome.rows);
  Sample sample{.rate = count / outcome.seconds, .cpu_us = outcome.cpu_seconds / count * 1e6};
  meter.Finish(count, outcome.seconds, sample);
  return sample;
}

}  // namespace

absl::Status MeasureFlatFile(NvmeRun& run) {
  run.reporter.Note("nvme: writing the flat file");
  const std::string folder = run.scratch.File("flat");
  ENGRAM_RETURN_IF_ERROR(MakeFolder(folder));
  ENGRAM_ASSIGN_OR_RETURN(auto flat, FlatFile::Make(run.plan.shape, folder + "/rows"));
  ENGRAM_ASSIGN_OR_RETURN(const ServedTable table, Serve(run, kDepth));
  ENGRAM_ASSIGN_OR_RETURN(const auto callers,
                          ColdCallers::Connect(*table.daemon, run.plan.shape, 1, kMaxRowsPerCall));
  Samples lookups;
  Samples reads;
  for (int round = 0; round < run.rounds; ++round) {
    ENGRAM_ASSIGN_OR_RETURN(const Sample rows,
                            callers->Round(run.round_seconds, run.seed++, run.scratch.path()));
    lookups.all.push_back(rows);
    ENGRAM_ASSIGN_OR_RETURN(const Sample flat_rows, FlatRound(run, *flat, run.seed++));
    reads.all.push_back(flat_rows);
  }
  Result result{.name = "nvme/flat_file",
                .value = lookups.MedianOf(&Sample::rate),
                .unit = "rows/s",
                .baseline = reads.MedianOf(&Sample::rate),
                .details = {}};
  result.details = {{"depth", int64_t{kDepth}},
                    {"threads", int64_t{1}},
                    {"rows_per_call", static_cast<int64_t>(kMaxRowsPerCall)},
                    {"calls_in_flight", int64_t{1}},
                    {"baseline_is", std::string("rows of a flat file, row id x row bytes, batches "
                                                "of as many, in one process, without a socket")},
                    {"baseline_device_reads_per_row", reads.MedianOf(&Sample::device_reads)},
                    {"rounds", int64_t{run.rounds}},
                    {"round_seconds", run.round_seconds}};
  AddSamples(lookups, reads, result);
  run.plan.Describe(result);
  run.reporter.Print(result);
  flat.reset();
  ENGRAM_RETURN_IF_ERROR(RemoveTree(folder));
  return table.daemon->process().Stop();
}

}  // namespace engram::bench
