// Which policy rules a cache's sets, by the misses of the sets that lead.
#include "storage/dram/policy_duel.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "storage/dram/layout.h"
#include "tests/bench/cache_models.h"
#include "tests/bench/zipf_law.h"

namespace engram::dram {
namespace {

using bench::CacheModel;
using bench::MakeDramModel;

constexpr uint32_t kSets = 8192;
constexpr size_t kByFrequency = 0;  // a set that frequency rules always
constexpr size_t kByRecency = 64 + 1;
constexpr size_t kFollower = 2;

// So many misses of the leaders, of which frequency has this share.
void Miss(PolicyDuel& duel, int misses, double share_of_frequency) {
  double owed = 0;
  for (int i = 0; i < misses; ++i) {
    owed += share_of_frequency;
    duel.Missed(owed >= 1 ? kByFrequency : kByRecency);
    if (owed >= 1) owed -= 1;
  }
}

TEST(PolicyDuelTest, FollowersTakeThePolicyThatMissesLess) {
  PolicyDuel duel(kSets);
  EXPECT_EQ(duel.PolicyOf(kFollower), Policy::kFrequency);
  Miss(duel, 10'000, 0.54);
  EXPECT_EQ(duel.winner(), Policy::kRecency);
  for (size_t set = 0; set < kSets; ++set) {
    ASSERT_EQ(duel.PolicyOf(set), set % 64 == 0 ? Policy::kFrequency : Policy::kRecency) << set;
  }
  Miss(duel, 100'000, 0.46);
  EXPECT_EQ(duel.winner(), Policy::kFrequency);
  for (size_t set = 0; set < kSets; ++set) {
    ASSERT_EQ(duel.PolicyOf(set), set % 64 == 1 ? Policy::kRecency : Policy::kFrequency) << set;
  }
}

TEST(PolicyDuelTest, ASmallDifferenceChangesNothing) {
  PolicyDuel duel(kSets);
  Miss(duel, 100'000, 0.505);
  EXPECT_EQ(duel.winner(), Policy::kFrequency);
  Miss(duel, 100'000, 0.55);
  EXPECT_EQ(duel.winner(), Policy::kRecency);
  Miss(duel, 100'000, 0.495);
  EXPECT_EQ(duel.winner(), Policy::kRecency);
}

TEST(PolicyDuelTest, ALargeCacheIsJudgedByMoreMisses) {
  constexpr uint32_t kLargeSets = 1 << 20;
  // Half of what the leaders of one policy hold.
  constexpr int kPeriod = kLargeSets / 64 * kWays;
  PolicyDuel duel(kLargeSets);
  Miss(duel, kPeriod - 1, 0.9);
  EXPECT_EQ(duel.winner(), Policy::kFrequency);
  Miss(duel, 1, 0.9);
  EXPECT_EQ(duel.winner(), Policy::kRecency);
}

TEST(PolicyDuelTest, OnlyLeadersAreHeard) {
  PolicyDuel duel(kSets);
  Miss(duel, 50'000, 0.6);
  ASSERT_EQ(duel.winner(), Policy::kRecency);
  for (size_t set = 0; set < 64 * kSets; ++set) {
    if (set % 64 > 1) duel.Missed(set);
  }
  EXPECT_EQ(duel.winner(), Policy::kRecency);
}

TEST(PolicyDuelTest, ASmallCacheIsRuledByFrequency) {
  PolicyDuel duel(4095);
  Miss(duel, 100'000, 0.9);
  for (size_t set = 0; set < 4095; ++set) ASSERT_EQ(duel.PolicyOf(set), Policy::kFrequency);
}

TEST(PolicyDuelTest, ManyThreadsAtOnce) {
  PolicyDuel duel(kSets);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&duel] { Miss(duel, 50'000, 0.6); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(duel.PolicyOf(kFollower), Policy::kRecency);
}

// Sets, policies and the duel together, on loads of which one policy is the better by far.
class DuelTraceTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kCacheSets = 4096;
  static constexpr uint32_t kCached = kCacheSets * kWays;
  static constexpr uint32_t kRows = 20 * kCached;

  static bool Ask(CacheModel& cache, uint32_t row_id) {
    return cache.Access(absl::MakeConstSpan(&row_id, 1)).value() == 1;
  }

  // Each access for itself, by Zipf's law.
  double Zipf(CacheModel& cache, uint64_t accesses) {
    uint64_t hits = 0;
    for (uint64_t i = 0; i < accesses; ++i) hits += Ask(cache, ranked_[law_.ranks()(random_) - 1]);
    return static_cast<double>(hits) / static_cast<double>(accesses);
  }

  // Documents, each of half a cache of rows of its own that it asks for six times, in random order,
  // and never again.
  double Documents(CacheModel& cache, int documents) {
    constexpr uint32_t kOwn = kCached / 2;
    uint64_t hits = 0;
    for (int i = 0; i < documents; ++i) {
      const uint32_t first = next_document_++ % (kRows / kOwn) * kOwn;
      for (uint32_t k = 0; k < 6 * kOwn; ++k) {
        hits += Ask(cache, first + static_cast<uint32_t>(random_() % kOwn));
      }
    }
    return static_cast<double>(hits) / (6.0 * kOwn * documents);
  }

  const bench::ZipfLaw law_{kRows, 0.9};
  const bench::RankedRows ranked_ = bench::ShuffleRows(kRows, 1);
  bench::TraceRandom random_{2};
  uint32_t next_document_ = 0;
};

TEST_F(DuelTraceTest, ByFrequencyWhereRowsAreDrawnByZipfsLaw) {
  const auto adaptive = MakeDramModel(kCacheSets, Admission::kAdaptive, 1);
  const auto frequency = MakeDramModel(kCacheSets, Admission::kFrequency, 1);
  const auto all = MakeDramModel(kCacheSets, Admission::kAll, 1);
  for (CacheModel* cache : {adaptive.get(), frequency.get(), all.get()}) Zipf(*cache, 40 * kCached);
  const double by_frequency = Zipf(*frequency, 10 * kCached);
  EXPECT_GE(Zipf(*adaptive, 10 * kCached), 0.98 * by_frequency);
  EXPECT_LE(Zipf(*all, 10 * kCached), 0.93 * by_frequency);
  EXPECT_FALSE(adaptive->ByRecency());
}

TEST_F(DuelTraceTest, ByRecencyWhereDocumentsRepeatThemselves) {
  const auto adaptive = MakeDramModel(kCacheSets, Admission::kAdaptive, 1);
  const auto frequency = MakeDramModel(kCacheSets, Admission::kFrequency, 1);
  const auto all = MakeDramModel(kCacheSets, Admission::kAll, 1);
  for (CacheModel* cache : {adaptive.get(), frequency.get(), all.get()}) Documents(*cache, 12);
  const double by_recency = Documents(*all, 8);
  EXPECT_GE(Documents(*adaptive, 8), 0.97 * by_recency);
  EXPECT_LE(Documents(*frequency, 8), 0.5 * by_recency);
  EXPECT_TRUE(adaptive->ByRecency());
}

TEST_F(DuelTraceTest, FollowsALoadThatChanges) {
  const auto adaptive = MakeDramModel(kCacheSets, Admission::kAdaptive, 1);
  Zipf(*adaptive, 40 * kCached);
  EXPECT_FALSE(adaptive->ByRecency());
  const double zipf = Zipf(*adaptive, 10 * kCached);
  Documents(*adaptive, 12);
  EXPECT_TRUE(adaptive->ByRecency());
  EXPECT_GE(Documents(*adaptive, 8), 0.78);
  // Frequency is better only after it has learnt the law.
  Zipf(*adaptive, 120 * kCached);
  EXPECT_FALSE(adaptive->ByRecency());
  EXPECT_GE(Zipf(*adaptive, 10 * kCached), 0.97 * zipf);
}

}  // namespace
}  // namespace engram::dram
