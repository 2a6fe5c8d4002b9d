// nvme/health: how long a health check takes while more than 10,000 cold rows are queued, renewed
// as fast as they are answered, against the same check of the idle daemon.
#include <algorithm>
#include <chrono>
#include <thread>

#include "storage/base/status_macros.h"
#include "tests/bench/health_probe.h"
#include "tests/bench/nvme_lines.h"

namespace engram::bench {
namespace {

constexpr int kDepth = 128;
// One call may just be between its answer and the next request: the others are over 10,000 rows.
constexpr int kCalls = 6;
constexpr size_t kRowsPerCall = 2048;
constexpr double kQueueFills = 0.2;  // s, until all calls are under way
constexpr std::chrono::milliseconds kPause{1};

// Checks, one after the other, for `seconds`.
absl::Status CheckFor(double seconds, HealthProbe& probe, std::vector<double>& micros) {
  const Clock::time_point start = Clock::now();
  while (SecondsSince(start) < seconds) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    ENGRAM_ASSIGN_OR_RETURN(const double time, probe.Check());
    micros.push_back(time);
    std::this_thread::sleep_for(kPause);
  }
  return absl::OkStatus();
}

absl::StatusOr<Sample> CheckUnderLoad(NvmeRun& run, const ColdCallers& callers, double seconds,
                                      HealthProbe& probe, std::vector<double>& micros) {
  absl::StatusOr<Sample> load = absl::UnknownError("not run");
  std::thread caller([&, seed = run.seed++] {
    load = callers.Round(kQueueFills + seconds, seed, run.scratch.path());
  });
  std::this_thread::sleep_for(std::chrono::duration<double>(kQueueFills));
  const absl::Status status = CheckFor(seconds, probe, micros);
  caller.join();
  ENGRAM_RETURN_IF_ERROR(status);
  return load;
}

}  // namespace

absl::Status MeasureHealth(NvmeRun& run) {
  ENGRAM_ASSIGN_OR_RETURN(const ServedTable table, Serve(run, kDepth));
  ENGRAM_ASSIGN_OR_RETURN(const auto callers, ColdCallers::Connect(*table.daemon, run.plan.shape,
                                                                   kCalls, kRowsPerCall));
  ENGRAM_ASSIGN_OR_RETURN(const auto probe, HealthProbe::Connect(table.daemon->target()));
  std::vector<double> loaded;
  std::vector<double> idle;
  Samples loads;
  for (int round = 0; round < run.rounds; ++round) {
    ENGRAM_RETURN_IF_ERROR(CheckFor(run.round_seconds, *probe, idle));
    ENGRAM_ASSIGN_OR_RETURN(const Sample load,
                            CheckUnderLoad(run, *callers, run.round_seconds, *probe, loaded));
    loads.all.push_back(load);
  }
  Result result{.name = "nvme/health",
                .value = Percentile(loaded, 0.99),
                .unit = "us",
                .baseline = Percentile(idle, 0.99),
                .details = {}};
  result.details = {{"better", std::string("lower")},
                    {"what", std::string("p99 of grpc.health.v1 Check while cold rows are queued")},
                    {"baseline_is", std::string("the same on the idle daemon")},
                    {"p50_us", Percentile(loaded, 0.5)},
                    {"max_us", Percentile(loaded, 1)},
                    {"baseline_p50_us", Percentile(idle, 0.5)},
                    {"baseline_max_us", Percentile(idle, 1)},
                    {"checks", static_cast<int64_t>(loaded.size())},
                    {"queued_rows", static_cast<int64_t>(kCalls * kRowsPerCall)},
                    {"cold_rows_per_s", loads.MedianOf(&Sample::rate)}};
  run.plan.Describe(result);
  run.reporter.Print(result);
  return table.daemon->process().Stop();
}

}  // namespace engram::bench
