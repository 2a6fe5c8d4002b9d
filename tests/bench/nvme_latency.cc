// nvme/latency_48: how long the 48 rows of one decode token take when all of them are cold, against
// the drive's own time for as many reads at once.
#include <random>

#include "storage/base/status_macros.h"
#include "tests/bench/nvme_lines.h"

namespace engram::bench {
namespace {

constexpr size_t kTokenRows = 48;  // 24 of each of two layers
constexpr int kDepth = 128;
constexpr int kCallsPerRound = 50;

absl::Status LookUpTokens(NvmeRun& run, RowCaller& caller, std::vector<double>& micros) {
  std::mt19937_64 random(run.seed++);
  for (int i = 0; i < kCallsPerRound; ++i) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const RowIds ids = RowIds::Distinct(run.plan.shape, kTokenRows, random);
    const Clock::time_point start = Clock::now();
    ENGRAM_RETURN_IF_ERROR(caller.Call(ids, RowCaller::Expect::kNvmeOnly));
    micros.push_back(SecondsSince(start) * 1e6);
    ENGRAM_RETURN_IF_ERROR(caller.Check(ids));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureLatency(NvmeRun& run) {
  const int rounds = run.quick() ? 2 : 40;
  ENGRAM_ASSIGN_OR_RETURN(const ServedTable table, Serve(run, kDepth));
  ENGRAM_ASSIGN_OR_RETURN(const auto caller,
                          RowCaller::Connect(table.daemon->target(), kTokenRows));
  std::vector<double> lookups;
  std::vector<double> reads;
  for (int round = 0; round < rounds; ++round) {
    ENGRAM_RETURN_IF_ERROR(LookUpTokens(run, *caller, lookups));
    ENGRAM_ASSIGN_OR_RETURN(
        const std::vector<double> bursts,
        table.reader->Bursts(static_cast<int>(kTokenRows), kCallsPerRound, run.seed++));
    reads.insert(reads.end(), bursts.begin(), bursts.end());
  }
  Result result{.name = "nvme/latency_48",
                .value = Percentile(lookups, 0.5),
                .unit = "us",
                .baseline = Percentile(reads, 0.5),
                .details = {}};
  result.details = {
      {"better", std::string("lower")},
      {"what", std::string("p50 of a call; 48 distinct cold rows, 24 of each of two layers")},
      {"baseline_is", std::string("48 random 4 KiB O_DIRECT reads, handed in without delay, until "
                                  "the last is there")},
      {"p99_us", Percentile(lookups, 0.99)},
      {"baseline_p99_us", Percentile(reads, 0.99)},
      {"p99_ratio", Percentile(lookups, 0.99) / Percentile(reads, 0.99)},
      {"calls_in_flight", int64_t{1}},
      {"calls", static_cast<int64_t>(lookups.size())}};
  run.plan.Describe(result);
  run.reporter.Print(result);
  return table.daemon->process().Stop();
}

}  // namespace engram::bench
