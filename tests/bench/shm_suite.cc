// Rows a second over shared memory, all rows in DRAM, and the latency of one token's rows.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/resident_array.h"
#include "tests/bench/suites.h"
#include "tests/bench/warm_table.h"

namespace engram::bench {
namespace {

constexpr uint64_t kTableBytes = uint64_t{1} << 30;
constexpr size_t kRowsPerCall = 8192;
constexpr size_t kTokenRows = 48;               // one token of DeepSeek-V4.1
constexpr size_t kListedIds = size_t{1} << 20;  // in the lists of ids that calls cycle through
constexpr uint64_t kSeed = 20261127;
// The baseline fetches so many rows ahead: the best of 8, 16, 32 and 64.
constexpr size_t kDistance = 32;

struct Pace {
  int rounds;
  double round_seconds;
};
Pace PaceFor(const BenchOptions& options) {
  return options.quick ? Pace{2, 0.05} : Pace{options.Rounds(9), 0.5};
}

// The ids of a call as rows of one array that holds all layers.
std::vector<uint32_t> InOneArray(const TablePlan& plan, const RowIds& ids) {
  std::vector<uint32_t> rows(ids.all());
  const size_t first = ids.of(0).size();
  for (size_t i = first; i < rows.size(); ++i) rows[i] += static_cast<uint32_t>(plan.shape.rows[0]);
  return rows;
}

// One mode of the tier: `name` as in the result lines.
class ShmRun {
 public:
  ShmRun(const BenchOptions& options, Reporter& reporter, const TablePlan& plan,
         const ResidentArray& array, WarmTable& table, std::string name)
      : options_(options),
        reporter_(reporter),
        plan_(plan),
        array_(array),
        table_(table),
        name_(std::move(name)) {}

  absl::Status Throughput(int threads) {
    std::mt19937_64 random(kSeed);
    for (size_t i = lists_.size(); i < kListedIds / kRowsPerCall; ++i) {
      lists_.push_back(table_.Draw(kRowsPerCall, random));
      array_lists_.push_back(InOneArray(plan_, lists_.back()));
    }
    const Pace pace = PaceFor(options_);
    std::vector<double> ours;
    std::vector<double> first;
    std::vector<double> second;
    for (int round = -1; round < pace.rounds; ++round) {  // round −1 warms all of them up
      ENGRAM_ASSIGN_OR_RETURN(const double a, Together(threads, &ShmRun::GatherArray));
      ENGRAM_ASSIGN_OR_RETURN(const double b, Together(threads, &ShmRun::LookUp));
      ENGRAM_ASSIGN_OR_RETURN(const double c, Together(threads, &ShmRun::GatherArray));
      if (round < 0) continue;
      first.push_back(a);
      ours.push_back(b);
      second.push_back(c);
    }
    Result result{.name = absl::StrCat("shm/", name_, "/threads_", threads),
                  .value = Median(ours),
                  .unit = "rows/s",
                  .baseline = std::max(Median(first), Median(second)),
                  .details = {}};
    result.details = {
        {"baseline_is", std::string("one array, rows fetched 32 ahead, as many threads; the "
                                    "faster of two runs, before and after")},
        {"rows_per_call", static_cast<int64_t>(kRowsPerCall)},
        {"threads", int64_t{threads}},
        {"rounds", int64_t{pace.rounds}},
        {"array_pages", array_.Pages()}};
    plan_.Describe(result);
    reporter_.Print(result);
    return absl::OkStatus();
  }

  // Of calls one after the other, each timed by itself.
  absl::Status Latency(TransportKind transport) {
    const bool shm = transport == TransportKind::kShm;
    ENGRAM_ASSIGN_OR_RETURN(
        const auto caller,
        RowCaller::Connect(table_.daemon().target(), kTokenRows, plan_.shape.row_bytes, transport));
    std::mt19937_64 random(kSeed + 1);
    const int calls = options_.quick ? 100 : shm ? 100000 : 20000;
    std::vector<double> micros;
    std::vector<double> bare;
    std::vector<std::byte> out(kTokenRows * plan_.shape.row_bytes);
    for (int i = -100; i < calls; ++i) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      const RowIds ids = table_.Draw(kTokenRows, random);
      const std::vector<uint32_t> rows = InOneArray(plan_, ids);
      const Clock::time_point start = Clock::now();
      ENGRAM_RETURN_IF_ERROR(caller->Call(ids, RowCaller::Expect::kDramOnly));
      const double ours = SecondsSince(start) * 1e6;
      const Clock::time_point again = Clock::now();
      array_.Gather(rows, out.data(), kDistance);
      if (i < 0) continue;
      micros.push_back(ours);
      bare.push_back(SecondsSince(again) * 1e6);
      if (i % 100 == 0) ENGRAM_RETURN_IF_ERROR(caller->Check(ids));
    }
    Result result{.name = absl::StrCat("latency/", shm ? "shm" : "grpc", "/", name_),
                  .value = Percentile(micros, 0.5),
                  .unit = "us",
                  .baseline = Percentile(bare, 0.5),
                  .details = {}};
    result.details = {
        {"better", std::string("lower")},
        {"what", std::string("p50 of a call; 48 random rows in DRAM, 24 of each of two layers")},
        {"baseline_is", std::string("the bare gather of the same rows from one array")},
        {"p99_us", Percentile(micros, 0.99)},
        {"baseline_p99_us", Percentile(bare, 0.99)},
        {"calls", int64_t{calls}}};
    plan_.Describe(result);
    reporter_.Print(result);
    return absl::OkStatus();
  }

 private:
  using Work = absl::StatusOr<double> (ShmRun::*)(int thread);

  // Rows a second of all threads together, each doing the same for the time of a round.
  absl::StatusOr<double> Together(int threads, Work work) {
    std::vector<absl::StatusOr<double>> rates(threads, 0.0);
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; ++i) {
      helpers.emplace_back([&, i] { rates[i] = (this->*work)(i); });
    }
    rates[0] = (this->*work)(0);
    for (std::thread& helper : helpers) helper.join();
    double sum = 0;
    for (const absl::StatusOr<double>& rate : rates) {
      ENGRAM_RETURN_IF_ERROR(rate.status());
      sum += *rate;
    }
    return sum;
  }

  absl::StatusOr<double> LookUp(int thread) {
    ENGRAM_ASSIGN_OR_RETURN(const auto caller,
                            RowCaller::Connect(table_.daemon().target(), kRowsPerCall,
                                               plan_.shape.row_bytes, TransportKind::kShm));
    // The first call maps the tier.
    ENGRAM_RETURN_IF_ERROR(caller->Call(lists_[0], RowCaller::Expect::kDramOnly));
    return Timed(
        thread,
        [&](size_t list) { return caller->Call(lists_[list], RowCaller::Expect::kDramOnly); },
        [&](size_t list) { return caller->Check(lists_[list]); });
  }

  absl::StatusOr<double> GatherArray(int thread) {
    std::vector<std::byte> out(kRowsPerCall * plan_.shape.row_bytes);
    return Timed(
        thread,
        [&](size_t list) {
          array_.Gather(array_lists_[list], out.data(), kDistance);
          return absl::OkStatus();
        },
        [](size_t) { return absl::OkStatus(); });
  }

  template <typename Call, typename Check>
  absl::StatusOr<double> Timed(int thread, Call call, Check check) {
    uint64_t rows = 0;
    size_t next = static_cast<size_t>(thread) * lists_.size() / 3;
    size_t last = 0;
    const double seconds = PaceFor(options_).round_seconds;
    const Clock::time_point start = Clock::now();
    double elapsed = 0;
    while (elapsed < seconds) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      last = next++ % lists_.size();
      ENGRAM_RETURN_IF_ERROR(call(last));
      rows += kRowsPerCall;
      elapsed = SecondsSince(start);
    }
    ENGRAM_RETURN_IF_ERROR(check(last));  // off the clock
    return static_cast<double>(rows) / elapsed;
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  const TablePlan& plan_;
  const ResidentArray& array_;
  WarmTable& table_;
  const std::string name_;
  std::vector<RowIds> lists_;
  std::vector<std::vector<uint32_t>> array_lists_;
};

enum class Measured { kThroughput, kLatency };

absl::Status RunModes(const BenchOptions& options, Reporter& reporter, Measured measured) {
  ENGRAM_ASSIGN_OR_RETURN(const TablePlan plan, PlanTable(options, kTableBytes));
  ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options.dir));
  const uint64_t bytes = plan.shape.Bytes();
  ENGRAM_RETURN_IF_ERROR(scratch.CheckSpace(bytes * 13 / 4 + (uint64_t{64} << 20)));
  struct Mode {
    const char* name;
    uint64_t dram_bytes;
  };
  // Room for all rows; and too little for that, so that there are sets.
  for (const Mode& mode : {Mode{"resident", bytes + bytes / 4 + (uint64_t{16} << 20)},
                           Mode{"cache", bytes - bytes / 16}}) {
    ENGRAM_ASSIGN_OR_RETURN(const auto table,
                            WarmTable::Create(scratch, plan, mode.dram_bytes, mode.name));
    ENGRAM_ASSIGN_OR_RETURN(
        const auto array,
        ResidentArray::Create(scratch.ShmDir(), plan.shape.TotalRows(), plan.shape.row_bytes));
    ShmRun run(options, reporter, plan, *array, *table, mode.name);
    if (measured == Measured::kThroughput) {
      const int cores = static_cast<int>(std::thread::hardware_concurrency());
      for (int threads = 1; threads <= std::max(cores, 1); threads *= 2) {
        ENGRAM_RETURN_IF_ERROR(run.Throughput(threads));
      }
    } else {
      ENGRAM_RETURN_IF_ERROR(run.Latency(TransportKind::kShm));
      ENGRAM_RETURN_IF_ERROR(run.Latency(TransportKind::kGrpc));
    }
    ENGRAM_RETURN_IF_ERROR(table->daemon().process().Stop());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunShmSuite(const BenchOptions& options, Reporter& reporter) {
  return RunModes(options, reporter, Measured::kThroughput);
}

absl::Status RunLatencySuite(const BenchOptions& options, Reporter& reporter) {
  return RunModes(options, reporter, Measured::kLatency);
}

}  // namespace engram::bench
