// Rows a second of Lookup over a Unix socket, all rows in DRAM, one call in flight.
#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/baseline_service.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/suites.h"

namespace engram::bench {
namespace {

// Far more than the processor's caches, few enough to make and to keep in memory on any machine.
constexpr uint64_t kTableBytes = uint64_t{1} << 30;
constexpr size_t kListedIds = size_t{1} << 19;  // in the lists of ids that calls cycle through
constexpr size_t kWarmBatch = 8192;
constexpr int kWarmPasses = 8;
constexpr uint64_t kSeed = 20261124;

struct Pace {
  int rounds;
  double round_seconds;
};
Pace PaceFor(const BenchOptions& options) { return options.quick ? Pace{2, 0.05} : Pace{7, 1.0}; }

// Looks up every row until DRAM serves all of them; the first pass compares each with what was
// loaded.
absl::Status WarmUp(const CheckpointShape& shape, RowCaller& caller) {
  uint64_t from_dram = 0;
  for (int pass = 0; pass < kWarmPasses; ++pass) {
    from_dram = 0;
    for (size_t i = 0; i < kLayers.size(); ++i) {
      for (uint64_t first = 0; first < shape.rows[i]; first += kWarmBatch) {
        ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
        const size_t rows = std::min<uint64_t>(kWarmBatch, shape.rows[i] - first);
        const RowIds ids = RowIds::Range(i, static_cast<uint32_t>(first), rows);
        ENGRAM_RETURN_IF_ERROR(caller.Call(ids, RowCaller::Expect::kAnyTier));
        if (pass == 0) ENGRAM_RETURN_IF_ERROR(caller.Check(ids));
        from_dram += caller.dram_rows();
      }
    }
    if (from_dram == shape.TotalRows()) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("after ", kWarmPasses, " passes DRAM serves ",
                                                    from_dram, " of ", shape.TotalRows(),
                                                    " rows although its budget holds all"));
}

// One of the things that are measured in turns.
struct Subject {
  std::function<absl::Status(const RowIds&)> call;
  std::vector<double> rates;  // rows/s, one a round
};

class GrpcSuite {
 public:
  GrpcSuite(const BenchOptions& options, Reporter& reporter)
      : options_(options), reporter_(reporter) {}

  absl::Status Run() {
    ENGRAM_ASSIGN_OR_RETURN(plan_, PlanTable(options_, kTableBytes));
    ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options_.dir));
    const uint64_t bytes = plan_.shape.Bytes();
    ENGRAM_RETURN_IF_ERROR(scratch.CheckSpace(bytes * 9 / 4 + (uint64_t{64} << 20)));
    const std::string checkpoint = scratch.File("checkpoint");
    ENGRAM_RETURN_IF_ERROR(WriteCheckpoint(plan_.shape, checkpoint));
    // Room for all rows with the cache's own index; it takes no more than they need.
    const uint64_t budget = bytes + bytes / 4 + (uint64_t{16} << 20);
    ENGRAM_ASSIGN_OR_RETURN(daemon_, Daemon::Start(scratch, budget));
    ENGRAM_RETURN_IF_ERROR(daemon_->Load(kTableName, checkpoint).status());
    ENGRAM_ASSIGN_OR_RETURN(caller_, RowCaller::Connect(daemon_->target(), kWarmBatch));
    ENGRAM_RETURN_IF_ERROR(WarmUp(plan_.shape, *caller_));
    for (const BaselineKind kind : kAllBaselines) {
      ENGRAM_ASSIGN_OR_RETURN(auto process, BaselineProcess::Start(scratch, kind));
      baselines_.emplace_back(kind, std::move(process));
    }
    for (const size_t rows : {size_t{512}, size_t{8192}}) {
      ENGRAM_RETURN_IF_ERROR(Measure(rows));
    }
    baselines_.clear();
    return daemon_->process().Stop();
  }

 private:
  absl::Status Measure(size_t rows) {
    std::mt19937_64 random(kSeed + rows);
    std::vector<RowIds> lists;
    for (size_t i = 0; i < kListedIds / rows; ++i) {
      lists.push_back(RowIds::Distinct(plan_.shape, rows, random));
    }
    std::vector<Subject> subjects;
    subjects.push_back(
        {[this](const RowIds& ids) { return caller_->Call(ids, RowCaller::Expect::kDramOnly); },
         {}});
    for (const auto& [kind, process] : baselines_) {
      subjects.push_back(
          {[baseline = process.get()](const RowIds& ids) { return baseline->Call(ids.all()); },
           {}});
    }
    const Pace pace = PaceFor(options_);
    double cpu_seconds = 0;
    double lookup_rows = 0;
    for (int round = -1; round < pace.rounds; ++round) {  // round −1 warms all of them up
      for (Subject& subject : subjects) {
        ENGRAM_ASSIGN_OR_RETURN(const double before, daemon_->process().CpuSeconds());
        ENGRAM_ASSIGN_OR_RETURN(const double rate, Round(subject, lists, pace.round_seconds));
        ENGRAM_ASSIGN_OR_RETURN(const double after, daemon_->process().CpuSeconds());
        if (round < 0) continue;
        subject.rates.push_back(rate);
        if (&subject != &subjects[0]) continue;
        cpu_seconds += after - before;
        lookup_rows += rate * pace.round_seconds;
      }
    }
    Report(rows, subjects, cpu_seconds / lookup_rows * 1e6);
    return absl::OkStatus();
  }

  // Calls one after the other for the time of a round. Afterwards, off the clock, the rows of the
  // last look-up are compared.
  absl::StatusOr<double> Round(const Subject& subject, const std::vector<RowIds>& lists,
                               double seconds) {
    uint64_t rows = 0;
    const Clock::time_point start = Clock::now();
    double elapsed = 0;
    const RowIds* last = nullptr;
    while (elapsed < seconds) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      last = &lists[next_list_++ % lists.size()];
      ENGRAM_RETURN_IF_ERROR(subject.call(*last));
      rows += last->all().size();
      elapsed = SecondsSince(start);
    }
    // Also after a baseline's round, with a look-up of its last list.
    ENGRAM_RETURN_IF_ERROR(caller_->Call(*last, RowCaller::Expect::kDramOnly));
    ENGRAM_RETURN_IF_ERROR(caller_->Check(*last));
    return static_cast<double>(rows) / elapsed;
  }

  void Report(size_t rows, const std::vector<Subject>& subjects, double cpu_us_per_row) {
    const auto rate = [&](BaselineKind kind) {  // subjects: the look-up, then kAllBaselines
      return Median(subjects[1 + static_cast<size_t>(kind)].rates);
    };
    const double sync = rate(BaselineKind::kSync);
    const double callback = rate(BaselineKind::kCallback);
    Result result{.name = absl::StrCat("grpc/lookup/", rows),
                  .value = Median(subjects[0].rates),
                  .unit = "rows/s",
                  .baseline = std::max(sync, callback),
                  .details = {}};
    result.details = {
        {"rows_per_call", static_cast<int64_t>(rows)},
        {"baseline_is", absl::StrCat("generated code, ", sync > callback ? "sync" : "callback",
                                     " server, the faster one")},
        {"sync_server_rows_per_s", sync},
        {"callback_server_rows_per_s", callback},
        {"daemon_cpu_us_per_row", cpu_us_per_row}};
    Finish(result);
    result.name = absl::StrCat("grpc/tuned_service/", rows);
    result.baseline = rate(BaselineKind::kTuned);
    result.details = {
        {"rows_per_call", static_cast<int64_t>(rows)},
        {"baseline_is", std::string("generated code, sync server, allocator set as engramd's is")}};
    Finish(result);
    result.name = absl::StrCat("grpc/raw_constant/", rows);
    result.baseline = rate(BaselineKind::kRaw);
    result.details = {{"rows_per_call", static_cast<int64_t>(rows)},
                      {"baseline_is", std::string("raw byte buffers, a constant, not looked at")}};
    Finish(result);
  }

  void Finish(Result& result) {
    const Pace pace = PaceFor(options_);
    result.details.emplace_back("calls_in_flight", int64_t{1});
    result.details.emplace_back("rounds", int64_t{pace.rounds});
    result.details.emplace_back("round_seconds", pace.round_seconds);
    plan_.Describe(result);
    reporter_.Print(result);
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  TablePlan plan_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<RowCaller> caller_;
  std::vector<std::pair<BaselineKind, std::unique_ptr<BaselineProcess>>> baselines_;
  size_t next_list_ = 0;
};

}  // namespace

absl::Status RunGrpcSuite(const BenchOptions& options, Reporter& reporter) {
  return GrpcSuite(options, reporter).Run();
}

}  // namespace engram::bench
