// What a set knows of its rows, and what follows for a row that is offered.
#include "storage/dram/hotness.h"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <random>
#include <thread>
#include <vector>

#include "storage/dram/reader.h"
#include "tests/test_seed.h"

namespace engram::dram {
namespace {

// One set, and whoever stores rows into it.
class OneSet {
 public:
  explicit OneSet(Admission admission = Admission::kFrequency) : hotness_(1, admission) {}

  // As a look-up does for a row that it missed.
  Decision Miss(uint32_t row_id) {
    return Apply(hotness_.Decide(line_, tags_, state_, row_id), row_id);
  }
  Decision Prefetch(uint32_t row_id) {
    return Apply(hotness_.DecidePrefetched(line_, tags_, state_, row_id), row_id);
  }
  // As a look-up does for a row that is held.
  void Hit(uint32_t row_id, uint32_t weight = 1) {
    const int way = hotness_.Touch(line_, tags_, row_id, weight);
    ASSERT_EQ(way, MatchWay(tags_, TagOf(row_id)));
    if (way < 0) return;
    state_ |= uint64_t{1} << way;
    state_ &= ~(uint64_t{1} << (kPrefetchedShift + way));
  }
  // Rows 0 … 14, each asked for `times` times.
  void Fill(uint32_t times) {
    for (uint32_t id = 0; id < kWays; ++id) {
      const Decision decision = Miss(id);
      ASSERT_GE(decision.way, 0);
      ASSERT_TRUE(decision.was_empty);
      for (uint32_t i = 1; i < times; ++i) Hit(id);
      ASSERT_EQ(Count(id), times);
    }
  }

  bool Holds(uint32_t row_id) { return MatchWay(tags_, TagOf(row_id)) >= 0; }
  uint32_t Count(uint32_t row_id) { return hotness_.Estimate(line_, tags_, row_id); }
  uint32_t Held() {
    uint32_t held = 0;
    for (const uint32_t tag : tags_.tags) held += tag != kEmptyTag;
    return held;
  }
  int Marked() const { return std::popcount(state_ >> kPrefetchedShift & kUsedMask); }
  void Recall(uint32_t row_id, uint32_t count) { hotness_.Recall(line_, tags_, row_id, count); }
  Hotness& hotness() { return hotness_; }
  uint64_t state() const { return state_; }

 private:
  Decision Apply(const Decision& decision, uint32_t row_id) {
    EXPECT_FALSE(Holds(row_id));
    state_ = (state_ & ~decision.clear) | decision.set;
    if (decision.way < 0) return decision;
    EXPECT_LT(decision.way, static_cast<int>(kWays));
    EXPECT_EQ(tags_.tags[decision.way] == kEmptyTag, decision.was_empty);
    tags_.tags[decision.way] = TagOf(row_id);
    return decision;
  }

  Hotness hotness_;
  TagLine tags_{};
  HotLine line_{};
  uint64_t state_ = 0;
};

// Rows that the set above does not have in the beginning.
constexpr uint32_t kNewRow = 1000;

TEST(HotnessTest, CountsOfHeldRowsEndAtTheirGreatest) {
  OneSet set;
  set.Fill(1);
  for (int i = 0; i < 40; ++i) set.Hit(3, 16);
  EXPECT_EQ(set.Count(3), kMaxCount);
  EXPECT_EQ(set.Count(4), 1u);
  EXPECT_EQ(set.Count(kNewRow), 0u);
}

TEST(HotnessTest, ASampleStandsForItsWeightButNotWhenARowIsFirstUsed) {
  OneSet set;
  set.Prefetch(kNewRow);
  EXPECT_EQ(set.Count(kNewRow), 0u);
  set.Hit(kNewRow, 16);
  EXPECT_EQ(set.Count(kNewRow), 1u);
  set.Hit(kNewRow, 16);
  EXPECT_EQ(set.Count(kNewRow), 17u);
}

TEST(HotnessTest, RowsThatComeOnceAreKeptOut) {
  OneSet set;
  set.Fill(8);
  std::mt19937_64 random(TestSeed());
  // A chance match with a ghost's 11 bits counts as a second time: some 1.2 % of them, of which
  // only those may get in that then have a greater count than the weakest row.
  constexpr int kScan = 5000;
  int admitted = 0;
  for (int i = 0; i < kScan; ++i) {
    uint32_t id = 0;
    do id = static_cast<uint32_t>(random());
    while (id < kNewRow || id == kDeadPosition || set.Holds(id));
    admitted += set.Miss(id).way >= 0;
    for (uint32_t held = 0; held < kWays; ++held) {
      if (i % 8 == 0 && set.Holds(held)) set.Hit(held);
    }
  }
  EXPECT_LT(admitted, kScan * 3 / 100);
  int kept = 0;
  for (uint32_t id = 0; id < kWays; ++id) kept += set.Holds(id);
  EXPECT_GE(kept, 13);
}

TEST(HotnessTest, ARowThatComesMoreOftenThanTheWeakestTakesItsWay) {
  OneSet set;
  set.Fill(4);
  set.Hit(7);
  for (uint32_t id = 0; id < kWays; ++id) {
    if (id != 9) set.Hit(id, 10);
  }
  for (uint32_t times = 1; times <= 4; ++times) {
    EXPECT_LT(set.Miss(kNewRow).way, 0) << times;
    EXPECT_EQ(set.Count(kNewRow), times);
  }
  const Decision decision = set.Miss(kNewRow);
  EXPECT_GE(decision.way, 0);
  EXPECT_FALSE(decision.was_empty);
  EXPECT_TRUE(set.Holds(kNewRow));
  EXPECT_EQ(set.Count(kNewRow), 5u);
  EXPECT_FALSE(set.Holds(9));   // the one that was asked for 4 times
  EXPECT_EQ(set.Count(9), 4u);  // and what is known of it is kept
  // Twice more, and it is back.
  EXPECT_LT(set.Miss(9).way, 0);
  EXPECT_GE(set.Miss(9).way, 0);
  EXPECT_FALSE(set.Holds(kNewRow));
}

TEST(HotnessTest, ARowWhoseCountHasAgedAwayGoesAtOnce) {
  OneSet set;
  set.Fill(1);
  for (uint32_t id = 1; id < kWays; ++id) set.Hit(id, 100);
  // A row that comes as often as counts go ages its set; row 0's one access is then worth nothing.
  for (int i = 0; set.Count(0) > 0 && i < 100; ++i) {
    if (!set.Holds(kNewRow)) set.Miss(kNewRow);
    if (!set.Holds(0)) break;
  }
  EXPECT_TRUE(set.Holds(kNewRow));
  EXPECT_FALSE(set.Holds(0));
}

TEST(HotnessTest, AGhostAtItsGreatestHalvesAllCountsOfItsSet) {
  OneSet set;
  set.Fill(1);
  for (uint32_t id = 0; id < kWays; ++id) set.Hit(id, 199);
  for (uint32_t i = 0; i + 1 < kMaxGhostCount; ++i) set.Miss(kNewRow);
  EXPECT_EQ(set.Count(kNewRow), kMaxGhostCount - 1);
  EXPECT_EQ(set.Count(5), 200u);
  set.Miss(kNewRow);
  EXPECT_EQ(set.Count(kNewRow), kMaxGhostCount / 2);
  for (uint32_t id = 0; id < kWays; ++id) EXPECT_EQ(set.Count(id), 100u) << id;
  // It goes on so, and gets in although the others were asked for 200 times.
  int more = 0;
  while (!set.Holds(kNewRow) && more < 200) more += set.Miss(kNewRow).way < 0;
  EXPECT_TRUE(set.Holds(kNewRow)) << more;
}

TEST(HotnessTest, ASampleOfARowThatHasGoneCountsForItsGhost) {
  OneSet set;
  set.Fill(20);
  set.Miss(kNewRow);
  EXPECT_EQ(set.hotness().admission(), Admission::kFrequency);
  set.Hit(kNewRow, 4);
  EXPECT_FALSE(set.Holds(kNewRow));
  EXPECT_EQ(set.Count(kNewRow), 5u);
  set.Hit(kNewRow + 1, 4);  // nothing is known of it, and a sample alone does not change that
  EXPECT_EQ(set.Count(kNewRow + 1), 0u);
}

TEST(HotnessTest, PrefetchedRowsHaveAFewWaysInTurn) {
  OneSet set;
  set.Fill(4);
  for (uint32_t id = 3; id < kWays; ++id) set.Hit(id, 10);
  for (uint32_t i = 0; i < 3 * kStagingWays; ++i) {
    EXPECT_GE(set.Prefetch(kNewRow + i).way, 0);
    EXPECT_TRUE(set.Holds(kNewRow + i));
    EXPECT_LE(set.Marked(), static_cast<int>(kStagingWays));
    if (i >= kStagingWays) {
      EXPECT_FALSE(set.Holds(kNewRow + i - kStagingWays)) << i;
    }
  }
  for (uint32_t id = 3; id < kWays; ++id) EXPECT_TRUE(set.Holds(id)) << id;
  // Those that had to go are remembered: once more than a row that was read once, and back.
  for (uint32_t id = 0; id < 3; ++id) EXPECT_EQ(set.Count(id), 4u) << id;
  set.Hit(kNewRow + 3 * kStagingWays - 1);
  EXPECT_EQ(set.Marked(), static_cast<int>(kStagingWays) - 1);
  EXPECT_GE(set.Miss(0).way, 0);
  EXPECT_FALSE(set.Holds(kNewRow + 3 * kStagingWays - 1));
}

TEST(HotnessTest, MissedRowsLeaveStagedRowsAloneUntilTheyExpire) {
  OneSet set;
  set.Fill(2);
  set.Prefetch(kNewRow);
  ASSERT_EQ(set.Marked(), 1);
  // Rows that are admitted in the meantime take other ways.
  uint32_t id = kNewRow + 1;
  for (uint32_t i = 0; i < kStagingOffers; ++i) {
    if (set.Holds(id)) ++id;
    set.Miss(id);
    ASSERT_TRUE(set.Holds(kNewRow)) << i;
  }
  EXPECT_GT(id, kNewRow + 1);               // some were admitted
  EXPECT_GE(set.Miss(2 * kNewRow).way, 0);  // nobody asked for the staged row: it goes at once
  EXPECT_FALSE(set.Holds(kNewRow));
  EXPECT_EQ(set.Marked(), 0);
}

TEST(HotnessTest, APrefetchedRowKeepsWhatIsKnownOfIt) {
  OneSet set;
  set.Fill(9);
  for (int i = 0; i < 5; ++i) set.Miss(kNewRow);
  EXPECT_EQ(set.Count(kNewRow), 5u);
  set.Prefetch(kNewRow);
  EXPECT_TRUE(set.Holds(kNewRow));
  EXPECT_EQ(set.Count(kNewRow), 5u);
  set.Hit(kNewRow, 4);
  EXPECT_EQ(set.Count(kNewRow), 9u);
}

TEST(HotnessTest, AdmissionAllTakesEveryRowBySecondChance) {
  OneSet set(Admission::kAll);
  for (uint32_t id = 0; id < 3 * kWays; ++id) EXPECT_GE(set.Miss(id).way, 0);
  EXPECT_EQ(set.Held(), kWays);
  for (uint32_t id = 2 * kWays; id < 3 * kWays; ++id) EXPECT_TRUE(set.Holds(id));
  set.Hit(2 * kWays);
  set.Hit(2 * kWays + 1);
  for (uint32_t id = 3 * kWays; id < 4 * kWays - 2; ++id) set.Miss(id);
  EXPECT_TRUE(set.Holds(2 * kWays));
  EXPECT_TRUE(set.Holds(2 * kWays + 1));
  EXPECT_FALSE(set.Holds(2 * kWays + 2));
}

TEST(HotnessTest, AdmissionPrefetchTakesOnlyWhatPrefetchesBring) {
  OneSet set(Admission::kPrefetch);
  EXPECT_LT(set.Miss(1).way, 0);
  for (uint32_t id = 0; id < 2 * kWays; ++id) EXPECT_GE(set.Prefetch(id).way, 0);
  EXPECT_EQ(set.Held(), kWays);
  EXPECT_LT(set.Miss(kNewRow).way, 0);
}

TEST(HotnessTest, SecondChancePassesWaysThatWereUsed) {
  const uint64_t hand_at_3 = uint64_t{3} << kHandShift;
  const Decision next = SecondChance(hand_at_3 | 0b11000);  // ways 3 and 4 were used
  EXPECT_EQ(next.way, 5);
  EXPECT_EQ(((hand_at_3 | 0b11000) & ~next.clear) | next.set, uint64_t{6} << kHandShift);
  const Decision turn = SecondChance(hand_at_3 | kUsedMask);  // all were
  EXPECT_EQ(turn.way, 3);
  EXPECT_EQ(((hand_at_3 | kUsedMask) & ~turn.clear) | turn.set, uint64_t{4} << kHandShift);
  EXPECT_EQ(SecondChance(uint64_t{14} << kHandShift).set, 0u);  // after the last comes the first
}

TEST(HotnessTest, WhatWasSavedIsRecalled) {
  OneSet set;
  for (uint32_t id = 0; id < kWays; ++id) set.Recall(id, 10 + id);
  set.Recall(3, 200);
  EXPECT_EQ(set.Count(3), kMaxGhostCount - 1);
  EXPECT_EQ(set.Count(4), 14u);
  // Into a cache that is still empty, and into one that holds the row.
  set.Miss(4);
  EXPECT_EQ(set.Count(4), 15u);
  set.Recall(4, 200);
  EXPECT_EQ(set.Count(4), 200u);
  set.Recall(4, 100);
  EXPECT_EQ(set.Count(4), 200u);
  set.Recall(4, 100000);
  EXPECT_EQ(set.Count(4), kMaxCount);
}

TEST(HotnessTest, RecallReplacesOnlyWeakerGhosts) {
  OneSet set;
  for (uint32_t id = 0; id < kGhosts; ++id) set.Recall(id, 20);
  set.Recall(kNewRow, 20);
  EXPECT_EQ(set.Count(kNewRow), 0u);
  set.Recall(kNewRow, 21);
  EXPECT_EQ(set.Count(kNewRow), 21u);
}

// Any number of threads touch and decide at once; of one set's decisions, one at a time, as the
// cache does it. Nothing may leave its bounds, and what is asked for most must be known to be.
TEST(HotnessTest, ThreadsTouchAndDecideAtOnce) {
  constexpr uint32_t kSets = 4;
  constexpr uint32_t kHot = kSets * kWays / 2;
  constexpr int kRounds = 30000;
  struct Set {
    std::atomic<bool> taken{false};
    TagLine tags{};
    HotLine line{};
    uint64_t state = 0;
  };
  std::vector<Set> sets(kSets);
  Hotness hotness(kSets);
  const uint64_t seed = TestSeed();
  std::vector<std::thread> threads;
  std::atomic<int> out_of_bounds{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      for (int i = 0; i < kRounds; ++i) {
        const bool hot = random() % 2 == 0;
        const auto id = static_cast<uint32_t>(hot ? random() % kHot : kHot + random() % 100000);
        Set& set = sets[SetOf(HashRowId(id), kSets)];
        if (hotness.Touch(set.line, set.tags, id, 2) >= 0) continue;
        if (set.taken.exchange(true, std::memory_order_acquire)) continue;
        if (MatchWay(set.tags, TagOf(id)) < 0) {
          const bool prefetched = random() % 16 == 0;
          const Decision decision =
              prefetched ? hotness.DecidePrefetched(set.line, set.tags, set.state, id)
                         : hotness.Decide(set.line, set.tags, set.state, id);
          out_of_bounds += decision.way >= static_cast<int>(kWays);
          set.state = (set.state & ~decision.clear) | decision.set;
          if (decision.way >= 0) {
            std::atomic_ref<uint32_t>(set.tags.tags[decision.way])
                .store(TagOf(id), std::memory_order_relaxed);
          }
        }
        set.taken.store(false, std::memory_order_release);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(out_of_bounds, 0);
  uint32_t held = 0;
  for (uint32_t id = 0; id < kHot; ++id) {
    Set& set = sets[SetOf(HashRowId(id), kSets)];
    held += MatchWay(set.tags, TagOf(id)) >= 0;
  }
  EXPECT_GE(held, kHot * 8 / 10);
}

}  // namespace
}  // namespace engram::dram
