// Hit ratio of the daemon's row cache over traces by Zipf's law, against the static placement of
// the same size by the true law; how it follows when the popular rows move, what a scan does to it,
// and what n-gram orders of different skew make of one cache. Other policies stand beside it.
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"
#include "storage/dram/fit_shape.h"
#include "storage/dram/layout.h"
#include "tests/bench/cache_models.h"
#include "tests/bench/hbm_zipf.h"
#include "tests/bench/row_cache_model.h"
#include "tests/bench/suites.h"
#include "tests/bench/zipf_law.h"

namespace engram::bench {
namespace {

using dram::Admission;
using dram::kWays;

constexpr uint64_t kSeed = 20261127;
constexpr uint32_t kRows = 10'000'000;
// A tenth of the larger table would take an hour; the share decides, not the size.
constexpr uint32_t kRowsForTenth = 1'000'000;

// One pass of warm-up is as many accesses as the table has rows, and at least so many a cached row:
// a row at the edge of the cache then comes 14 (α 1.05, 1 %) to 52 times (α 0.8, 0.1 %). After 10
// accesses a cached row perfect counts do not reach 0.97 of the static placement either: the trace
// does not yet tell those rows apart.
constexpr uint64_t kPassPerCachedRow = 300;
// LRU and CLOCK have settled long before.
constexpr uint64_t kShortPassPerCachedRow = 30;
constexpr uint64_t kLeastMeasured = 1'000'000;
constexpr uint32_t kRowBytes = 264;
// Cache sizes that a scan is long.
constexpr uint32_t kScanned = 10;

// Accesses to one popularity order.
class Trace {
 public:
  Trace(const ZipfLaw& law, const RankedRows& ranked, uint64_t seed)
      : law_(law), ranked_(&ranked), random_(seed) {}
  void Move(const RankedRows& ranked) { ranked_ = &ranked; }
  uint32_t Next() { return (*ranked_)[law_.ranks()(random_) - 1]; }

 private:
  const ZipfLaw& law_;
  const RankedRows* ranked_;
  TraceRandom random_;
};

using NextRow = std::function<uint32_t()>;

// Rows of one look-up. Few, so that what a look-up asks for twice is no matter.
constexpr size_t kBatch = 64;

// The share of hits among so many accesses, a multiple of kBatch or a few more.
absl::StatusOr<double> Replay(CacheModel& cache, const NextRow& next, uint64_t accesses) {
  std::array<uint32_t, kBatch> batch;
  uint64_t hits = 0;
  uint64_t done = 0;
  for (; done < accesses; done += kBatch) {
    if (done % (uint64_t{1} << 20) == 0) ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    for (uint32_t& id : batch) id = next();
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t held, cache.Access(batch));
    hits += held;
  }
  return static_cast<double>(hits) / static_cast<double>(done);
}

// The share of hits until so many accesses, or a few more, were misses.
absl::StatusOr<double> ReplayMisses(CacheModel& cache, const NextRow& next, uint64_t misses) {
  std::array<uint32_t, kBatch> batch;
  uint64_t hits = 0;
  uint64_t done = 0;
  for (; done - hits < misses; done += kBatch) {
    for (uint32_t& id : batch) id = next();
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t held, cache.Access(batch));
    hits += held;
  }
  return static_cast<double>(hits) / static_cast<double>(done);
}

class ZipfSuite {
 public:
  ZipfSuite(const BenchOptions& options, Reporter& reporter)
      : options_(options), reporter_(reporter) {}

  absl::Status Run() {
    const std::vector<double> alphas =
        options_.quick ? std::vector<double>{1.0} : std::vector<double>{0.8, 0.9, 1.0, 1.05};
    const std::vector<double> shares =
        options_.quick ? std::vector<double>{0.01} : std::vector<double>{0.001, 0.01, 0.1};
    for (const double share : shares) {
      UseTable(share);
      for (const double alpha : alphas) ENGRAM_RETURN_IF_ERROR(Steady(alpha, share));
    }
    UseTable(0.01);
    for (const double alpha : alphas) {
      ENGRAM_RETURN_IF_ERROR(Drift(alpha, 1.0, "all"));
      ENGRAM_RETURN_IF_ERROR(Drift(alpha, 0.5, "half"));
      ENGRAM_RETURN_IF_ERROR(Scan(alpha));
    }
    ENGRAM_RETURN_IF_ERROR(Orders());
    return RunHbmZipf(options_, reporter_);
  }

 private:
  bool Wanted(const std::string& name) const { return absl::StartsWith(name, options_.only); }

  // Of a table, the share that is cached.
  void UseTable(double share) {
    rows_ = options_.quick ? 100'000 : share > 0.05 ? kRowsForTenth : kRows;
    if (!options_.rows.empty()) {
      rows_ = static_cast<uint32_t>(std::min<uint64_t>(options_.rows[0], UINT32_MAX / 2));
    }
    const uint32_t wanted = std::max(kWays, static_cast<uint32_t>(rows_ * share));
    ids_ = rows_ + kScanned * wanted;  // those beyond the table's are a scan's
    budget_ = BudgetForRows(wanted, kRowBytes, ids_);
    sets_ = static_cast<uint32_t>(dram::FitShape(budget_, kRowBytes, ids_).Slots() / kWays);
    if (ranked_.size() != rows_) ranked_ = ShuffleRows(rows_, kSeed);
  }
  uint32_t cached() const { return sets_ * kWays; }
  absl::StatusOr<std::unique_ptr<RowCacheModel>> NewRowCache() const {
    return RowCacheModel::Create(budget_, kRowBytes, ids_);
  }
  uint64_t Pass() const {
    return std::max<uint64_t>(rows_,
                              uint64_t{cached()} * (options_.quick ? 30 : kPassPerCachedRow));
  }
  uint64_t ShortPass() const {
    return std::min(Pass(), uint64_t{cached()} * kShortPassPerCachedRow);
  }
  uint64_t Measured() const { return std::max(kLeastMeasured, Pass() / 4); }

  // One pass, then the hit ratio of a stretch of the same trace that was not seen before.
  absl::StatusOr<double> HitRatio(std::unique_ptr<CacheModel> cache, const ZipfLaw& law,
                                  uint64_t pass) {
    Trace trace(law, ranked_, kSeed + 1);
    const NextRow next = [&] { return trace.Next(); };
    ENGRAM_RETURN_IF_ERROR(Replay(*cache, next, pass).status());
    return Replay(*cache, next, Measured());
  }

  absl::Status Steady(double alpha, double share) {
    const std::string name = absl::StrCat("zipf/dram/", alpha, "/", share * 100, "%");
    if (!Wanted(name)) return absl::OkStatus();
    const ZipfLaw law(rows_, alpha);
    Result result{.name = name,
                  .unit = "of accesses",
                  .baseline = law.StaticHitRatio(cached()),
                  .details = {}};
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<CacheModel> ours, NewRowCache());
    ENGRAM_ASSIGN_OR_RETURN(result.value, HitRatio(std::move(ours), law, Pass()));
    result.details = {
        {"baseline_is", std::string("static placement by the true law, fully associative")},
        {"static_in_sets", law.StaticHitRatioInSets(sets_, ranked_)}};
    struct Other {
      const char* name;
      std::unique_ptr<CacheModel> cache;
      uint64_t pass;
    };
    std::vector<Other> others;
    others.push_back({"perfect_counts", MakePerfectCountsModel(sets_, rows_), Pass()});
    others.push_back({"all_hits_counted", MakeDramModel(sets_, Admission::kFrequency, 1), Pass()});
    others.push_back({"lru", MakeLruModel(cached(), rows_), ShortPass()});
    others.push_back({"lru_in_sets", MakeSetLruModel(sets_), ShortPass()});
    others.push_back({"clock", MakeDramModel(sets_, Admission::kAll, 1), ShortPass()});
    for (Other& other : others) {
      ENGRAM_ASSIGN_OR_RETURN(const double ratio,
                              HitRatio(std::move(other.cache), law, other.pass));
      result.details.emplace_back(other.name, ratio);
    }
    Finish(result);
    return absl::OkStatus();
  }

  // Hit ratios in windows of a quarter of the cache's size in misses, after the popular rows moved.
  static constexpr int kWindowsACache = 4;
  static constexpr int kWindows = 8 * kWindowsACache;
  struct Recovery {
    double before = 0;
    std::array<double, kWindows> after{};
  };

  // `before` is null for a cache that begins with the move.
  absl::StatusOr<Recovery> Follow(CacheModel& cache, const ZipfLaw& law, const RankedRows* before,
                                  const RankedRows& after, uint64_t pass) {
    Recovery recovery;
    Trace trace(law, after, kSeed + 2);
    const NextRow next = [&] { return trace.Next(); };
    if (before != nullptr) {
      trace.Move(*before);
      ENGRAM_RETURN_IF_ERROR(Replay(cache, next, pass).status());
      ENGRAM_ASSIGN_OR_RETURN(recovery.before, Replay(cache, next, kLeastMeasured));
      trace.Move(after);
    }
    for (double& ratio : recovery.after) {
      ENGRAM_ASSIGN_OR_RETURN(ratio, ReplayMisses(cache, next, cached() / kWindowsACache));
    }
    return recovery;
  }

  // Recovered is a cache that again serves more than LRU ever does, and as much as perfect counts
  // of all accesses since the move do after as many misses, to 3 %. (Its former level is another
  // matter: so soon after the move, nobody can know the new popular rows that well.)
  absl::Status Drift(double alpha, double share, const char* what) {
    const std::string name = absl::StrCat("zipf/drift/", alpha, "/1%/", what);
    if (!Wanted(name)) return absl::OkStatus();
    const ZipfLaw law(rows_, alpha);
    const RankedRows moved = MoveRows(ranked_, share, kSeed + 3);
    ENGRAM_ASSIGN_OR_RETURN(const auto dram, NewRowCache());
    const auto lru = MakeLruModel(cached(), rows_);
    const auto fresh = MakePerfectCountsModel(sets_, rows_);
    ENGRAM_ASSIGN_OR_RETURN(const Recovery ours, Follow(*dram, law, &ranked_, moved, Pass()));
    ENGRAM_ASSIGN_OR_RETURN(const Recovery theirs, Follow(*lru, law, &ranked_, moved, ShortPass()));
    ENGRAM_ASSIGN_OR_RETURN(const Recovery best, Follow(*fresh, law, nullptr, moved, 0));
    int window = 0;
    while (window < kWindows &&
           (ours.after[window] < 0.97 * best.after[window] || ours.after[window] < theirs.before)) {
      ++window;
    }
    Result result{.name = name,
                  .value = static_cast<double>(window + 1) / kWindowsACache,
                  .unit = "cache sizes of misses",
                  .baseline = 4,
                  .details = {}};
    result.details = {{"better", std::string("lower")},
                      {"baseline_is", std::string("what is aimed at")},
                      {"times_noticed", static_cast<int64_t>(dram->TimesForgotten())},
                      {"before", ours.before},
                      {"lru_before", theirs.before}};
    for (const int caches : {1, 2, 4, 8}) {
      const int last = caches * kWindowsACache - 1;
      result.details.emplace_back(absl::StrCat("after_", caches), ours.after[last]);
      result.details.emplace_back(absl::StrCat("perfect_counts_after_", caches), best.after[last]);
      result.details.emplace_back(absl::StrCat("lru_after_", caches), theirs.after[last]);
    }
    Finish(result);
    return absl::OkStatus();
  }

  // Ten cache sizes of rows that come once, one after each access of the trace.
  absl::Status Scan(double alpha) {
    const std::string name = absl::StrCat("zipf/scan/", alpha, "/1%");
    if (!Wanted(name)) return absl::OkStatus();
    const ZipfLaw law(rows_, alpha);
    const uint32_t scanned = kScanned * cached();
    struct Levels {
      double before;
      double during;
      double after;
    };
    const auto levels = [&](CacheModel& cache, uint64_t pass) -> absl::StatusOr<Levels> {
      Trace trace(law, ranked_, kSeed + 4);
      const NextRow next = [&] { return trace.Next(); };
      Levels result{};
      ENGRAM_RETURN_IF_ERROR(Replay(cache, next, pass).status());
      ENGRAM_ASSIGN_OR_RETURN(result.before, Replay(cache, next, kLeastMeasured));
      // None of the scanned rows is held, so half of the accesses may be hits.
      uint32_t i = 0;
      const NextRow both = [&] {
        return i++ % 2 == 0 ? trace.Next() : rows_ + (i / 2 - 1) % scanned;
      };
      ENGRAM_ASSIGN_OR_RETURN(const double hits, Replay(cache, both, 2 * uint64_t{scanned}));
      result.during = 2 * hits;
      ENGRAM_ASSIGN_OR_RETURN(result.after, Replay(cache, next, cached()));
      return result;
    };
    ENGRAM_ASSIGN_OR_RETURN(const auto dram, NewRowCache());
    const auto lru = MakeLruModel(cached(), ids_);
    const auto clock = MakeDramModel(sets_, Admission::kAll, 1);
    ENGRAM_ASSIGN_OR_RETURN(const Levels ours, levels(*dram, Pass()));
    ENGRAM_ASSIGN_OR_RETURN(const Levels lrus, levels(*lru, ShortPass()));
    ENGRAM_ASSIGN_OR_RETURN(const Levels clocks, levels(*clock, ShortPass()));
    Result result{.name = name,
                  .value = ours.during,
                  .unit = "of accesses",
                  .baseline = ours.before,
                  .details = {}};
    result.details = {{"baseline_is", std::string("the same cache before the scan")},
                      {"after", ours.after},
                      {"lru_before", lrus.before},
                      {"lru", lrus.during},
                      {"clock_before", clocks.before},
                      {"clock", clocks.during},
                      {"scanned_rows", int64_t{scanned}}};
    Finish(result);
    return absl::OkStatus();
  }

  // Half of the rows, and of the accesses, belong to a steep order (α 1.05), half to a flat one
  // (0.8): one cache for both, against the static placement with the best split of the cache.
  absl::Status Orders() {
    const std::string name = "zipf/orders/1.05+0.8/1%";
    if (!Wanted(name)) return absl::OkStatus();
    const uint32_t half = rows_ / 2;
    const ZipfLaw steep(half, 1.05);
    const ZipfLaw flat(half, 0.8);
    const RankedRows ranked = ShuffleRows(half, kSeed + 5);
    const auto split = [&](int tenths) {
      const uint32_t first = cached() / 10 * tenths;
      return (steep.StaticHitRatio(first) + flat.StaticHitRatio(cached() - first)) / 2;
    };
    int best = 0;
    for (int tenths = 1; tenths <= 10; ++tenths) {
      if (split(tenths) > split(best)) best = tenths;
    }
    // Where both orders share a cache, `second` is null.
    const auto replay = [&](CacheModel& first, CacheModel* second) -> absl::StatusOr<double> {
      Trace steep_trace(steep, ranked, kSeed + 6);
      Trace flat_trace(flat, ranked, kSeed + 7);
      const NextRow next_steep = [&] { return steep_trace.Next(); };
      const NextRow next_flat = [&] { return half + flat_trace.Next(); };
      bool flat_next = true;
      const NextRow either = [&] { return (flat_next = !flat_next) ? next_flat() : next_steep(); };
      if (second == nullptr) {
        ENGRAM_RETURN_IF_ERROR(Replay(first, either, Pass()).status());
        return Replay(first, either, Measured());
      }
      ENGRAM_RETURN_IF_ERROR(Replay(first, next_steep, Pass() / 2).status());
      ENGRAM_RETURN_IF_ERROR(Replay(*second, next_flat, Pass() / 2).status());
      ENGRAM_ASSIGN_OR_RETURN(const double of_steep, Replay(first, next_steep, Measured() / 2));
      ENGRAM_ASSIGN_OR_RETURN(const double of_flat, Replay(*second, next_flat, Measured() / 2));
      return (of_steep + of_flat) / 2;
    };
    ENGRAM_ASSIGN_OR_RETURN(const auto shared, NewRowCache());
    const uint64_t half_budget = BudgetForRows(cached() / 2, kRowBytes, ids_);
    ENGRAM_ASSIGN_OR_RETURN(const auto steep_half,
                            RowCacheModel::Create(half_budget, kRowBytes, ids_));
    ENGRAM_ASSIGN_OR_RETURN(const auto flat_half,
                            RowCacheModel::Create(half_budget, kRowBytes, ids_));
    Result result{.name = name, .unit = "of accesses", .baseline = split(best), .details = {}};
    ENGRAM_ASSIGN_OR_RETURN(result.value, replay(*shared, nullptr));
    ENGRAM_ASSIGN_OR_RETURN(const double apart, replay(*steep_half, flat_half.get()));
    result.details = {{"baseline_is", std::string("static placement by the true laws, best split")},
                      {"best_split_steep", best / 10.0},
                      {"even_split", apart},
                      {"static_even_split", split(5)}};
    Finish(result);
    return absl::OkStatus();
  }

  void Finish(Result& result) {
    result.details.emplace_back("table_rows", int64_t{rows_});
    result.details.emplace_back("cached_rows", int64_t{cached()});
    result.details.emplace_back("row_bytes", int64_t{kRowBytes});
    result.details.emplace_back("sampled_hits", int64_t{dram::kSampleEvery});
    result.details.emplace_back("pass_accesses", static_cast<int64_t>(Pass()));
    result.details.emplace_back("seed", static_cast<int64_t>(kSeed));
    if (options_.quick) result.details.emplace_back("quick", true);
    if (!options_.rows.empty()) result.details.emplace_back("small", rows_ < kRows);
    reporter_.Print(result);
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  uint32_t rows_ = 0;
  uint32_t ids_ = 0;
  uint64_t budget_ = 0;
  uint32_t sets_ = 0;
  RankedRows ranked_;
};

}  // namespace

absl::Status RunZipfSuite(const BenchOptions& options, Reporter& reporter) {
  return ZipfSuite(options, reporter).Run();
}

}  // namespace engram::bench
