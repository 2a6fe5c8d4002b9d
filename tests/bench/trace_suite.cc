// Hit ratio of the daemon's row cache over a trace from files, real text for one: warmed by one
// part of it, measured on another that it has not seen; against the static placement of the rows
// that the first part asks for most often.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"
#include "storage/dram/fit_shape.h"
#include "storage/dram/layout.h"
#include "tests/bench/cache_models.h"
#include "tests/bench/row_cache_model.h"
#include "tests/bench/suites.h"
#include "tests/bench/trace_files.h"

namespace engram::bench {
namespace {

using dram::kWays;

constexpr uint32_t kRowBytes = 264;

// What a DRAM tier of 0.25, 1 and 4 GiB has for each of DeepSeek-V4.1's two layers.
constexpr uint64_t kCachedRows[] = {499'321, 1'997'287, 7'989'150};

// Rows of one look-up.
constexpr size_t kBatch = 64;

// LRU and CLOCK have settled after so many accesses a cached row.
constexpr uint64_t kShortPassPerCachedRow = 30;

// How often each row was asked for.
struct Counts {
  std::vector<uint32_t> of;
  uint64_t accesses = 0;

  uint64_t Distinct() const {
    return of.size() - static_cast<uint64_t>(std::count(of.begin(), of.end(), 0u));
  }
};

absl::StatusOr<Counts> Count(TraceFiles& trace, uint64_t ids) {
  Counts counts{.of = std::vector<uint32_t>(ids)};
  for (size_t block = 0; block < trace.blocks(); ++block) {
    if (block % 64 == 0) ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const absl::Span<const uint32_t> rows = trace.Rows(block);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (i + 16 < rows.size()) __builtin_prefetch(&counts.of[rows[i + 16]], 1);
      ++counts.of[rows[i]];
    }
    counts.accesses += rows.size();
  }
  return counts;
}

// The share of `measured` that the `held` rows with the greatest counts in `by` serve. Of rows with
// equal counts at the edge each is held in proportion.
double StaticHitRatio(const Counts& by, const Counts& measured, uint64_t held) {
  const uint32_t most = *std::max_element(by.of.begin(), by.of.end());
  std::vector<uint64_t> rows_with(uint64_t{most} + 1);
  std::vector<uint64_t> accesses_of(uint64_t{most} + 1);
  for (size_t row = 0; row < by.of.size(); ++row) {
    ++rows_with[by.of[row]];
    accesses_of[by.of[row]] += measured.of[row];
  }
  double served = 0;
  for (uint32_t count = most; count > 0 && held > 0; --count) {
    const uint64_t taken = std::min(held, rows_with[count]);
    if (taken > 0) {
      served += static_cast<double>(accesses_of[count]) * static_cast<double>(taken) /
                static_cast<double>(rows_with[count]);
    }
    held -= taken;
  }
  return served / static_cast<double>(measured.accesses);
}

// The share of hits, from this block on.
absl::StatusOr<double> Replay(CacheModel& cache, TraceFiles& trace, size_t first_block) {
  uint64_t hits = 0;
  uint64_t accesses = 0;
  for (size_t block = first_block; block < trace.blocks(); ++block) {
    if (block % 64 == 0) ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    absl::Span<const uint32_t> rows = trace.Rows(block);
    accesses += rows.size();
    for (; !rows.empty(); rows.remove_prefix(std::min(kBatch, rows.size()))) {
      ENGRAM_ASSIGN_OR_RETURN(const uint64_t held, cache.Access(rows.subspan(0, kBatch)));
      hits += held;
    }
  }
  return static_cast<double>(hits) / static_cast<double>(accesses);
}

class TraceSuite {
 public:
  TraceSuite(const BenchOptions& options, Reporter& reporter, TraceFiles warm, TraceFiles test)
      : options_(options),
        reporter_(reporter),
        warm_(std::move(warm)),
        test_(std::move(test)),
        ids_(std::max(warm_.ids(), test_.ids())) {}

  absl::Status Run() {
    std::vector<uint64_t> sizes(std::begin(kCachedRows), std::end(kCachedRows));
    if (!options_.rows.empty()) sizes = options_.rows;
    ENGRAM_ASSIGN_OR_RETURN(warm_counts_, Count(warm_, ids_));
    ENGRAM_ASSIGN_OR_RETURN(test_counts_, Count(test_, ids_));
    for (const uint64_t size : sizes) ENGRAM_RETURN_IF_ERROR(Measure(size));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<double> HitRatio(CacheModel& cache, uint64_t warm_accesses) {
    const uint64_t blocks = warm_accesses / warm_.RowsPerBlock() + 1;
    const size_t first = blocks >= warm_.blocks() ? 0 : warm_.blocks() - blocks;
    ENGRAM_RETURN_IF_ERROR(Replay(cache, warm_, first).status());
    return Replay(cache, test_, 0);
  }

  absl::Status Measure(uint64_t rows) {
    const uint64_t budget = BudgetForRows(rows, kRowBytes, ids_);
    const uint64_t slots = dram::FitShape(budget, kRowBytes, ids_).Slots();
    const auto sets = static_cast<uint32_t>(slots / kWays);
    Result result{.name = absl::StrCat("trace/dram/", rows),
                  .unit = "of accesses",
                  .baseline = StaticHitRatio(warm_counts_, test_counts_, slots),
                  .details = {}};
    const auto measure_ours = [&](dram::Admission admission,
                                  bool& by_recency) -> absl::StatusOr<double> {
      ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<CacheModel> cache,
                              RowCacheModel::Create(budget, kRowBytes, ids_, admission));
      ENGRAM_ASSIGN_OR_RETURN(const double ratio, HitRatio(*cache, warm_counts_.accesses));
      by_recency = cache->ByRecency();
      return ratio;
    };
    bool by_recency = false;
    bool unused = false;
    ENGRAM_ASSIGN_OR_RETURN(result.value, measure_ours(dram::Admission::kAdaptive, by_recency));
    ENGRAM_ASSIGN_OR_RETURN(const double frequency,
                            measure_ours(dram::Admission::kFrequency, unused));
    const uint64_t short_pass = slots * kShortPassPerCachedRow;
    ENGRAM_ASSIGN_OR_RETURN(const double lru, HitRatio(*MakeLruModel(static_cast<uint32_t>(slots),
                                                                     static_cast<uint32_t>(ids_)),
                                                       short_pass));
    ENGRAM_ASSIGN_OR_RETURN(const double clock,
                            HitRatio(*MakeDramModel(sets, dram::Admission::kAll, 1), short_pass));
    result.details = {
        {"baseline_is", std::string("static placement by the counts of the warm-up")},
        {"static_by_its_own_counts", StaticHitRatio(test_counts_, test_counts_, slots)},
        {"by_recency_at_the_end", by_recency},
        {"by_frequency", frequency},
        {"lru", lru},
        {"clock", clock},
        {"cached_rows", static_cast<int64_t>(slots)},
        {"row_bytes", int64_t{kRowBytes}},
        {"sampled_hits", int64_t{dram::kSampleEvery}},
        {"table_rows", static_cast<int64_t>(ids_)},
        {"warm_accesses", static_cast<int64_t>(warm_counts_.accesses)},
        {"warm_distinct_rows", static_cast<int64_t>(warm_counts_.Distinct())},
        {"sequences", static_cast<int64_t>(options_.sequences)},
        {"turn", static_cast<int64_t>(options_.turn)},
        {"accesses", static_cast<int64_t>(test_counts_.accesses)},
        {"distinct_rows", static_cast<int64_t>(test_counts_.Distinct())}};
    if (options_.quick) result.details.emplace_back("quick", true);
    reporter_.Print(result);
    return absl::OkStatus();
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  TraceFiles warm_;
  TraceFiles test_;
  const uint64_t ids_;
  Counts warm_counts_;
  Counts test_counts_;
};

}  // namespace

absl::Status RunTraceSuite(const BenchOptions& options, Reporter& reporter) {
  if (options.trace.empty() || options.test_trace.empty()) {
    return absl::InvalidArgumentError("give files to --trace and --test-trace");
  }
  std::unique_ptr<TokenRows> tokens;
  if (!options.tokenizer.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(TokenRows rows, DeepseekTokenRows(options.tokenizer));
    tokens = std::make_unique<TokenRows>(std::move(rows));
  }
  ENGRAM_ASSIGN_OR_RETURN(TraceFiles warm, TraceFiles::Open(options.trace, tokens.get()));
  ENGRAM_ASSIGN_OR_RETURN(TraceFiles test, TraceFiles::Open(options.test_trace, tokens.get()));
  if (options.sequences > 0) {
    warm.Interleave(options.sequences, options.turn);
    test.Interleave(options.sequences, options.turn);
  }
  return TraceSuite(options, reporter, std::move(warm), std::move(test)).Run();
}

}  // namespace engram::bench
