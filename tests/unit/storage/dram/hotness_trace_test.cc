// The policy as a whole, on small caches: what engram_bench zipf measures, as bounds that hold. The
// traces are always the same (the seeds are in the code).
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "tests/bench/cache_models.h"
#include "tests/bench/zipf_law.h"

namespace engram::bench {
namespace {

using dram::Admission;

constexpr uint32_t kRows = 200'000;
constexpr uint32_t kSets = 400;  // 3 % of the rows
constexpr uint32_t kCached = kSets * dram::kWays;
constexpr uint64_t kPass = uint64_t{200} * kCached;
constexpr uint64_t kSeed = 7;

// One row at a time. True: it was held. Models of policies have no rows, so nothing can fail.
bool Ask(CacheModel& cache, uint32_t row_id) {
  return cache.Access(absl::MakeConstSpan(&row_id, 1)).value() == 1;
}

class HotnessTraceTest : public ::testing::Test {
 protected:
  double Replay(CacheModel& cache, const RankedRows& ranked, uint64_t accesses) {
    uint64_t hits = 0;
    for (uint64_t i = 0; i < accesses; ++i) {
      hits += Ask(cache, ranked[law_.ranks()(random_) - 1]);
    }
    return static_cast<double>(hits) / static_cast<double>(accesses);
  }

  const ZipfLaw law_{kRows, 0.9};
  const RankedRows ranked_ = ShuffleRows(kRows, kSeed);
  TraceRandom random_{kSeed + 1};
};

TEST_F(HotnessTraceTest, RanksComeAsOftenAsTheLawSays) {
  constexpr int kDraws = 4'000'000;
  for (const double alpha : {0.8, 1.0, 1.05}) {
    const ZipfLaw law(1000, alpha);
    std::vector<int> drawn(1001);
    for (int i = 0; i < kDraws; ++i) {
      const uint64_t rank = law.ranks()(random_);
      ASSERT_GE(rank, 1u);
      ASSERT_LE(rank, 1000u);
      ++drawn[rank];
    }
    double before = 0;
    for (uint32_t rank = 1; rank <= 1000; ++rank) {
      const double up_to = law.StaticHitRatio(rank);
      const double expected = (up_to - before) * kDraws;
      EXPECT_NEAR(drawn[rank], expected, 6 * std::sqrt(expected)) << alpha << " " << rank;
      before = up_to;
    }
  }
}

TEST_F(HotnessTraceTest, ShuffledAndMovedRowsAreTheSameRows) {
  for (const double share : {0.0, 0.5, 1.0}) {
    const RankedRows moved = MoveRows(ranked_, share, kSeed);
    std::vector<bool> seen(kRows);
    uint32_t stayed = 0;
    for (uint32_t rank = 0; rank < kRows; ++rank) {
      ASSERT_LT(moved[rank], kRows);
      ASSERT_FALSE(seen[moved[rank]]);
      seen[moved[rank]] = true;
      stayed += moved[rank] == ranked_[rank];
    }
    EXPECT_NEAR(stayed, (1 - share) * kRows, kRows / 50.0) << share;
  }
}

TEST_F(HotnessTraceTest, ServesNearlyAsMuchAsTheStaticPlacement) {
  const auto dram = MakeDramModel(kSets, Admission::kFrequency, 1);
  const auto sampled = MakeDramModel(kSets, Admission::kFrequency, 4);
  const auto lru = MakeLruModel(kCached, kRows);
  const double best = law_.StaticHitRatio(kCached);
  Replay(*dram, ranked_, kPass);
  Replay(*sampled, ranked_, kPass);
  Replay(*lru, ranked_, kPass);
  EXPECT_GE(Replay(*dram, ranked_, kPass), 0.97 * best);
  EXPECT_GE(Replay(*sampled, ranked_, kPass), 0.96 * best);
  EXPECT_LE(Replay(*lru, ranked_, kPass), 0.9 * best);
  EXPECT_EQ(dram->TimesForgotten(), 0u);
  EXPECT_EQ(sampled->TimesForgotten(), 0u);
}

TEST_F(HotnessTraceTest, ASteadyLoadIsNotTakenForAChange) {
  for (const double alpha : {0.7, 0.8, 1.05, 1.2, 1.4}) {
    const ZipfLaw law(kRows, alpha);
    for (const uint32_t sampled : {1u, 16u}) {
      const auto dram = MakeDramModel(kSets, Admission::kFrequency, sampled);
      for (uint64_t i = 0; i < kPass; ++i) Ask(*dram, ranked_[law.ranks()(random_) - 1]);
      EXPECT_EQ(dram->TimesForgotten(), 0u) << alpha << ", one hit in " << sampled;
    }
  }
}

TEST_F(HotnessTraceTest, AScanIsKeptOutAndNotTakenForAChange) {
  const auto dram = MakeDramModel(kSets, Admission::kFrequency, 1);
  const auto clock = MakeDramModel(kSets, Admission::kAll, 1);
  Replay(*dram, ranked_, kPass);
  Replay(*clock, ranked_, kPass);
  const double before = Replay(*dram, ranked_, kPass / 4);
  const double clock_before = Replay(*clock, ranked_, kPass / 4);
  // Two rows that come once after each access of the trace; then nothing but such rows.
  const auto scan = [&](CacheModel& cache) {
    uint64_t hits = 0;
    uint32_t next = kRows;
    for (uint32_t i = 0; i < 10 * kCached; ++i) {
      hits += Ask(cache, ranked_[law_.ranks()(random_) - 1]);
      Ask(cache, next++);
      Ask(cache, next++);
    }
    for (uint32_t i = 0; i < 20 * kCached; ++i) Ask(cache, next++);
    return static_cast<double>(hits) / (10 * kCached);
  };
  EXPECT_GE(scan(*dram), 0.97 * before);
  EXPECT_GE(Replay(*dram, ranked_, kCached), 0.97 * before);
  EXPECT_LE(scan(*clock), 0.9 * clock_before);
  EXPECT_EQ(dram->TimesForgotten(), 0u);
}

TEST_F(HotnessTraceTest, FollowsWhenThePopularRowsMove) {
  for (const double share : {0.5, 1.0}) {
    const RankedRows moved = MoveRows(ranked_, share, kSeed + 2);
    const auto dram = MakeDramModel(kSets, Admission::kFrequency, 1);
    const auto fresh = MakePerfectCountsModel(kSets, kRows);
    Replay(*dram, ranked_, kPass);
    EXPECT_EQ(dram->TimesForgotten(), 0u);
    // Until four cache sizes were missed; then no worse than one that began with the move.
    const auto miss = [&](CacheModel& cache) {
      for (uint32_t missed = 0; missed < 4 * kCached;) {
        missed += !Ask(cache, moved[law_.ranks()(random_) - 1]);
      }
      return Replay(cache, moved, 2 * kCached);
    };
    EXPECT_GE(miss(*dram), 0.95 * miss(*fresh)) << share;
    EXPECT_EQ(dram->TimesForgotten(), 1u) << share;
  }
}

}  // namespace
}  // namespace engram::bench
