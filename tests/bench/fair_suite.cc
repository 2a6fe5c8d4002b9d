// fair: how long a decode token's rows take beside clients that ask for thousands of rows a call,
// against what a drive as busy gives to a program that does nothing else.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/many_callers.h"
#include "tests/bench/nvme_lines.h"
#include "tests/bench/suites.h"

namespace engram::bench {
namespace {

constexpr size_t kTokenRows = 48;
constexpr int kDriveDepth = 128;
constexpr int kClients = 64;
constexpr uint64_t kWarmDramBytes = uint64_t{256} << 20;
constexpr double kQueueFills = 0.5;  // s, until all clients wait

// Of one round, all in microseconds or rows a second.
struct FairRound {
  double alone_p50 = 0;
  double p50 = 0;
  double p99 = 0;
  double bare_p50 = 0;
  double bare_p99 = 0;
  double bare_rate = 0;         // reads/s of the bare background alone
  double bare_rate_beside = 0;  // and beside the bursts
  double rate = 0;              // rows/s of the 64 clients alone
  double rate_beside = 0;       // and beside the small calls
  double calls = 0;
};

double MedianOf(const std::vector<FairRound>& rounds, double FairRound::*member) {
  std::vector<double> values;
  for (const FairRound& round : rounds) values.push_back(round.*member);
  return Median(std::move(values));
}

// One round's p50 and p99 of calls in turn for `seconds`.
absl::StatusOr<std::vector<double>> TokenCalls(NvmeRun& run, RowCaller& caller, double seconds,
                                               const RowIds* warm) {
  std::mt19937_64 random(run.seed++);
  std::vector<double> micros;
  const Clock::time_point begin = Clock::now();
  while (micros.empty() || SecondsSince(begin) < seconds) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const RowIds ids =
        warm != nullptr ? *warm : RowIds::Distinct(run.plan.shape, kTokenRows, random);
    const Clock::time_point start = Clock::now();
    // Of warm rows one may be gone from DRAM now and then.
    ENGRAM_RETURN_IF_ERROR(caller.Call(
        ids, warm != nullptr ? RowCaller::Expect::kAnyTier : RowCaller::Expect::kNvmeOnly));
    micros.push_back(SecondsSince(start) * 1e6);
    ENGRAM_RETURN_IF_ERROR(caller.Check(ids));
  }
  return micros;
}

ManyCallers::Load LoadOn(const std::string& target, const BenchOptions& options) {
  // What is under way when the calls end is answered first: for minutes by a slow build.
  return {.target = target,
          .clients = options.quick ? 8 : kClients,
          .rows_per_call = options.quick ? 512 : kMaxRowsPerCall,
          .table = options};
}

// Rows a second that the load is given while `during` runs.
template <typename During>
absl::StatusOr<double> RateDuring(NvmeRun& run, ManyCallers::Load load, During during) {
  load.seed = run.seed++;
  ENGRAM_ASSIGN_OR_RETURN(const auto callers, ManyCallers::Start(run.scratch, load));
  std::this_thread::sleep_for(std::chrono::duration<double>(kQueueFills));
  const uint64_t before = callers->rows();
  const Clock::time_point start = Clock::now();
  ENGRAM_RETURN_IF_ERROR(during());
  const double rate = static_cast<double>(callers->rows() - before) / SecondsSince(start);
  ENGRAM_RETURN_IF_ERROR(callers->Stop());
  return rate;
}

absl::Status Wait(double seconds) {
  const Clock::time_point start = Clock::now();
  while (SecondsSince(start) < seconds) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return absl::OkStatus();
}

// The bare loops: bursts beside random reads at the daemon's depth, and these alone.
absl::Status BareRound(NvmeRun& run, const RandomReader& reader, FairRound& round) {
  absl::StatusOr<Sample> background = absl::UnknownError("not run");
  std::vector<double> micros;
  std::thread loop([&, seed = run.seed++] {
    background = ReadRound(reader, kDriveDepth, run.round_seconds + 0.2, seed, run.scratch.path());
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const Clock::time_point begin = Clock::now();
  absl::Status status;
  while (status.ok() && SecondsSince(begin) < run.round_seconds) {
    const auto bursts = reader.Bursts(static_cast<int>(kTokenRows), 20, run.seed++);
    status = bursts.status();
    if (bursts.ok()) micros.insert(micros.end(), bursts->begin(), bursts->end());
  }
  loop.join();
  ENGRAM_RETURN_IF_ERROR(status);
  ENGRAM_RETURN_IF_ERROR(background.status());
  round.bare_p50 = Percentile(micros, 0.5);
  round.bare_p99 = Percentile(micros, 0.99);
  round.bare_rate_beside = background->rate;
  ENGRAM_ASSIGN_OR_RETURN(const Sample alone, ReadRound(reader, kDriveDepth, run.round_seconds,
                                                        run.seed++, run.scratch.path()));
  round.bare_rate = alone.rate;
  return absl::OkStatus();
}

absl::StatusOr<FairRound> ColdRound(NvmeRun& run, const ServedTable& table, RowCaller& caller,
                                    const ManyCallers::Load& load) {
  FairRound round;
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<double> alone,
                          TokenCalls(run, caller, run.round_seconds / 4, nullptr));
  round.alone_p50 = Percentile(alone, 0.5);
  ENGRAM_RETURN_IF_ERROR(BareRound(run, *table.reader, round));
  ENGRAM_ASSIGN_OR_RETURN(round.rate,
                          RateDuring(run, load, [&] { return Wait(run.round_seconds); }));
  std::vector<double> micros;
  ENGRAM_ASSIGN_OR_RETURN(round.rate_beside, RateDuring(run, load, [&] {
                            auto calls = TokenCalls(run, caller, run.round_seconds, nullptr);
                            if (calls.ok()) micros = *std::move(calls);
                            return calls.status();
                          }));
  round.p50 = Percentile(micros, 0.5);
  round.p99 = Percentile(micros, 0.99);
  round.calls = static_cast<double>(micros.size());
  return round;
}

Result Line(const NvmeRun& run, const std::string& name, double value, const std::string& unit,
            double baseline, const std::string& what, const std::string& baseline_is) {
  Result result{.name = name, .value = value, .unit = unit, .baseline = baseline, .details = {}};
  result.details = {{"better", std::string(unit == "us" ? "lower" : "higher")},
                    {"what", what},
                    {"baseline_is", baseline_is},
                    {"depth", int64_t{kDriveDepth}},
                    {"rounds", int64_t{run.rounds}},
                    {"round_seconds", run.round_seconds}};
  run.plan.Describe(result);
  return result;
}

void ReportCold(const NvmeRun& run, const std::vector<FairRound>& rounds) {
  const double alone = MedianOf(rounds, &FairRound::alone_p50);
  const double p50 = MedianOf(rounds, &FairRound::p50);
  const std::string what =
      absl::StrCat("of a call for 48 cold rows beside ", kClients, " clients of ", kMaxRowsPerCall);
  const std::string bare =
      "48 bare io_uring reads beside a bare loop that keeps the daemon's depth under way";
  Result result = Line(run, "fair/cold_48", p50, "us", MedianOf(rounds, &FairRound::bare_p50),
                       "p50 " + what, bare);
  result.details.emplace_back("alone_us", alone);
  result.details.emplace_back("ratio_to_alone", p50 / alone);
  result.details.emplace_back("calls_a_round", MedianOf(rounds, &FairRound::calls));
  run.reporter.Print(result);
  run.reporter.Print(Line(run, "fair/cold_48/p99", MedianOf(rounds, &FairRound::p99), "us",
                          MedianOf(rounds, &FairRound::bare_p99), "p99 " + what, bare));
  const double bare_rate = MedianOf(rounds, &FairRound::bare_rate);
  run.reporter.Print(Line(run, "fair/rate", MedianOf(rounds, &FairRound::rate), "rows/s", bare_rate,
                          "of the large calls, without small ones",
                          "the bare loop, without bursts"));
  Result beside =
      Line(run, "fair/rate/beside", MedianOf(rounds, &FairRound::rate_beside), "rows/s", bare_rate,
           "of the large calls, beside small ones", "the bare loop, without bursts");
  beside.details.emplace_back("ratio_to_without", MedianOf(rounds, &FairRound::rate_beside) /
                                                      MedianOf(rounds, &FairRound::rate));
  beside.details.emplace_back("bare_rate_beside_bursts",
                              MedianOf(rounds, &FairRound::bare_rate_beside));
  run.reporter.Print(beside);
}

absl::Status MeasureCold(NvmeRun& run, const BenchOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const ServedTable table, Serve(run, kDriveDepth));
  ENGRAM_ASSIGN_OR_RETURN(const auto caller,
                          RowCaller::Connect(table.daemon->target(), kTokenRows));
  const ManyCallers::Load load = LoadOn(table.daemon->target(), options);
  std::vector<FairRound> rounds;
  for (int i = 0; i < run.rounds; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(const FairRound round, ColdRound(run, table, *caller, load));
    rounds.push_back(round);
  }
  ReportCold(run, rounds);
  return table.daemon->process().Stop();
}

absl::Status MeasureWarm(NvmeRun& run, const BenchOptions& options) {
  std::vector<std::string> flags = DepthFlags(kDriveDepth);
  ENGRAM_ASSIGN_OR_RETURN(const auto daemon, Daemon::Start(run.scratch, kWarmDramBytes, flags));
  ENGRAM_ASSIGN_OR_RETURN(const auto caller, RowCaller::Connect(daemon->target(), kTokenRows));
  const ManyCallers::Load load = LoadOn(daemon->target(), options);
  std::mt19937_64 random(run.seed++);
  const RowIds ids = RowIds::Distinct(run.plan.shape, kTokenRows, random);
  for (int i = 0; i < 1000 && caller->dram_rows() < kTokenRows; ++i) {
    ENGRAM_RETURN_IF_ERROR(caller->Call(ids, RowCaller::Expect::kAnyTier));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::vector<double> alone;
  std::vector<double> beside;
  std::vector<double> alone_p99;
  std::vector<double> beside_p99;
  for (int i = 0; i < run.rounds; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<double> quiet,
                            TokenCalls(run, *caller, run.round_seconds / 4, &ids));
    std::vector<double> micros;
    ENGRAM_RETURN_IF_ERROR(RateDuring(run, load, [&] {
                             auto calls = TokenCalls(run, *caller, run.round_seconds, &ids);
                             if (calls.ok()) micros = *std::move(calls);
                             return calls.status();
                           }).status());
    alone.push_back(Percentile(quiet, 0.5));
    alone_p99.push_back(Percentile(quiet, 0.99));
    beside.push_back(Percentile(micros, 0.5));
    beside_p99.push_back(Percentile(micros, 0.99));
  }
  Result result = Line(run, "fair/warm_48", Median(beside), "us", Median(alone),
                       absl::StrCat("p50 of a call for 48 rows in DRAM beside ", kClients,
                                    " clients of ", kMaxRowsPerCall, " cold ones"),
                       "the same on the idle daemon");
  result.details.emplace_back("p99_us", Median(beside_p99));
  result.details.emplace_back("baseline_p99_us", Median(alone_p99));
  run.reporter.Print(result);
  return daemon->process().Stop();
}

}  // namespace

absl::Status RunFairSuite(const BenchOptions& options, Reporter& reporter) {
  ENGRAM_ASSIGN_OR_RETURN(const TablePlan plan, PlanTable(options, kFairTableBytes));
  ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options.dir));
  NvmeRun run{.reporter = reporter, .scratch = scratch, .plan = plan, .only = options.only};
  run.rounds = options.Rounds(7);
  run.round_seconds = options.quick ? 0.3 : 2;
  ENGRAM_RETURN_IF_ERROR(scratch.CheckOnDrive());
  ENGRAM_RETURN_IF_ERROR(scratch.CheckSpace(plan.shape.Bytes() * 21 / 10 + (uint64_t{64} << 20)));
  ENGRAM_RETURN_IF_ERROR(LoadTable(run));
  if (run.Wanted("fair/cold_48") || run.Wanted("fair/rate")) {
    ENGRAM_RETURN_IF_ERROR(MeasureCold(run, options));
  }
  if (run.Wanted("fair/warm_48")) ENGRAM_RETURN_IF_ERROR(MeasureWarm(run, options));
  return absl::OkStatus();
}

}  // namespace engram::bench
