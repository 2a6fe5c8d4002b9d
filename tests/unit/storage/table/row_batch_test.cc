#include "storage/table/row_batch.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint32_t kRowBytes = 4;
constexpr std::byte kDirty{0xEE};

class RowBatchTest : public ::testing::Test {
 protected:
  RowBatch Make(std::vector<RowId> ids) {
    ids_ = std::move(ids);
    out_.assign(ids_.size() * kRowBytes, kDirty);
    tiers_.assign(ids_.size(), 77);
    return RowBatch(ids_, kRowBytes, absl::MakeSpan(out_), absl::MakeSpan(tiers_));
  }
  bool RowIs(uint32_t position, std::byte value) const {
    for (uint32_t i = 0; i < kRowBytes; ++i) {
      if (out_[position * kRowBytes + i] != value) return false;
    }
    return true;
  }

  std::vector<RowId> ids_;
  std::vector<std::byte> out_;
  std::vector<uint8_t> tiers_;
};

TEST_F(RowBatchTest, ZeroesDeadPositionsAndMissesTheRest) {
  const RowBatch batch =
      Make({RowId{7}, RowId::kDeadPosition, RowId{0}, RowId::kDeadPosition, RowId{7}});
  EXPECT_THAT(batch.missing(), ElementsAre(0, 2, 4));
  EXPECT_TRUE(RowIs(0, kDirty));
  EXPECT_TRUE(RowIs(1, std::byte{0}));
  EXPECT_TRUE(RowIs(2, kDirty));
  EXPECT_TRUE(RowIs(3, std::byte{0}));
  EXPECT_EQ(batch.ids().size(), 5u);
  EXPECT_EQ(batch.row_bytes(), kRowBytes);
  EXPECT_EQ(batch.row(3), out_.data() + 12);
  EXPECT_TRUE(batch.wants_tiers());
  EXPECT_THAT(tiers_, ElementsAre(kNoTier, kNoTier, kNoTier, kNoTier, kNoTier));
  EXPECT_THAT(batch.failures(), IsEmpty());
}

TEST_F(RowBatchTest, RepeatsAreFilledFromTheFirst) {
  for (const bool wants_tiers : {true, false}) {
    RowBatch batch = Make({RowId{7}, RowId{8}, RowId{7}, RowId::kDeadPosition, RowId{9}, RowId{8},
                           RowId{7}, RowId::kDeadPosition});
    if (!wants_tiers) batch = RowBatch(ids_, kRowBytes, absl::MakeSpan(out_));
    batch.SetRepeatsAside();
    EXPECT_THAT(batch.missing(), ElementsAre(0, 1, 4));
    // DRAM has 7; NVMe has 9 and cannot read 8.
    std::vector<uint32_t> before = batch.missing();
    std::fill_n(batch.row(0), kRowBytes, std::byte{7});
    batch.missing() = {1, 4};
    batch.CountServed(TierKind::kDram, before, 0);
    before = batch.missing();
    std::fill_n(batch.row(4), kRowBytes, std::byte{9});
    batch.Fail(1, absl::DataLossError("torn"));
    batch.missing().clear();
    batch.CountServed(TierKind::kNvme, before, 0);
    batch.FillRepeats();
    batch.FillRepeats();
    for (const uint32_t position : {0, 2, 6}) EXPECT_TRUE(RowIs(position, std::byte{7}));
    for (const uint32_t position : {1, 5, 3, 7}) EXPECT_TRUE(RowIs(position, std::byte{0}));
    EXPECT_TRUE(RowIs(4, std::byte{9}));
    EXPECT_EQ(batch.served(TierKind::kDram), 3u);
    EXPECT_EQ(batch.served(TierKind::kNvme), 1u);
    ASSERT_EQ(batch.failures().size(), 2u);
    EXPECT_EQ(batch.failures()[1].position, 5u);
    EXPECT_EQ(batch.failures()[1].status, absl::DataLossError("torn"));
    if (!wants_tiers) continue;
    EXPECT_THAT(tiers_, ElementsAre(1, kNoTier, 1, kNoTier, 2, kNoTier, 1, kNoTier));
  }
}

TEST_F(RowBatchTest, FindsEveryRepeatInALargeBatch) {
  constexpr uint32_t kDistinct = 1000;
  std::vector<RowId> ids;
  for (uint32_t i = 0; i < 5 * kDistinct; ++i) ids.push_back(RowId{(i * 7919) % kDistinct * 64});
  RowBatch batch = Make(ids);
  batch.SetRepeatsAside();
  ASSERT_EQ(batch.missing().size(), kDistinct);
  const std::vector<uint32_t> before = batch.missing();
  for (const uint32_t position : before) {
    std::memcpy(batch.row(position), &ids[position], kRowBytes);
  }
  batch.missing().clear();
  batch.CountServed(TierKind::kDram, before, 0);
  batch.FillRepeats();
  for (uint32_t position = 0; position < ids.size(); ++position) {
    ASSERT_EQ(std::memcmp(batch.row(position), &ids[position], kRowBytes), 0) << position;
  }
  EXPECT_EQ(batch.served(TierKind::kDram), ids.size());
}

TEST_F(RowBatchTest, MayBeEmpty) {
  const RowBatch batch = Make({});
  EXPECT_THAT(batch.missing(), IsEmpty());
}

TEST_F(RowBatchTest, CountsWhatEachTierServed) {
  RowBatch batch = Make({RowId{1}, RowId{2}, RowId::kDeadPosition, RowId{3}, RowId{4}});
  // DRAM fills positions 0 and 3; NVMe fills 1 and fails 4.
  std::vector<uint32_t> before = batch.missing();
  batch.missing() = {1, 4};
  batch.CountServed(TierKind::kDram, before, 0);
  EXPECT_EQ(batch.served(TierKind::kDram), 2u);
  EXPECT_THAT(tiers_, ElementsAre(1, kNoTier, kNoTier, 1, kNoTier));
  before = batch.missing();
  batch.Fail(4, absl::DataLossError("bad page"));
  batch.missing().clear();
  batch.CountServed(TierKind::kNvme, before, 0);
  EXPECT_EQ(batch.served(TierKind::kNvme), 1u);
  EXPECT_EQ(batch.served(TierKind::kHbm), 0u);
  EXPECT_THAT(tiers_, ElementsAre(1, 2, kNoTier, 1, kNoTier));
  ASSERT_EQ(batch.failures().size(), 1u);
  EXPECT_EQ(batch.failures()[0].position, 4u);
  EXPECT_EQ(batch.failures()[0].status, absl::DataLossError("bad page"));
  EXPECT_TRUE(RowIs(4, std::byte{0}));
}

TEST_F(RowBatchTest, CountsOnlyTheTiersOwnFailures) {
  RowBatch batch = Make({RowId{1}, RowId{2}});
  std::vector<uint32_t> before = batch.missing();
  batch.Fail(0, absl::UnavailableError("x"));
  batch.missing() = {1};
  batch.CountServed(TierKind::kDram, before, 0);
  before = batch.missing();
  batch.missing().clear();
  batch.CountServed(TierKind::kNvme, before, 1);
  EXPECT_EQ(batch.served(TierKind::kDram), 0u);
  EXPECT_EQ(batch.served(TierKind::kNvme), 1u);
  EXPECT_THAT(tiers_, ElementsAre(kNoTier, 2));
}

TEST_F(RowBatchTest, PartsAddUpToTheWhole) {
  RowBatch batch = Make({RowId{1}, RowId::kDeadPosition, RowId{2}, RowId{3}, RowId{4}});
  RowBatch late(batch, {3, 4});
  RowBatch early(batch, {0, 2});
  EXPECT_THAT(late.missing(), ElementsAre(3, 4));
  std::vector<uint32_t> before = late.missing();
  late.Fail(4, absl::DataLossError("late"));
  late.missing().clear();
  late.CountServed(TierKind::kNvme, before, 0);
  before = early.missing();
  early.Fail(2, absl::DataLossError("early"));
  early.missing().clear();
  early.CountServed(TierKind::kDram, before, 0);
  batch.Absorb(late);
  batch.Absorb(early);
  EXPECT_EQ(batch.served(TierKind::kDram), 1u);
  EXPECT_EQ(batch.served(TierKind::kNvme), 1u);
  ASSERT_EQ(batch.failures().size(), 2u);
  EXPECT_EQ(batch.failures()[0].position, 2u) << "in the order of positions";
  EXPECT_EQ(batch.failures()[1].position, 4u);
  EXPECT_THAT(tiers_, ElementsAre(1, kNoTier, kNoTier, 2, kNoTier));
  EXPECT_TRUE(RowIs(4, std::byte{0}));
}

TEST_F(RowBatchTest, DoesWithoutTierNotes) {
  ids_ = {RowId{1}, RowId::kDeadPosition};
  out_.assign(ids_.size() * kRowBytes, kDirty);
  RowBatch batch(ids_, kRowBytes, absl::MakeSpan(out_));
  EXPECT_FALSE(batch.wants_tiers());
  const std::vector<uint32_t> before = batch.missing();
  batch.missing().clear();
  batch.CountServed(TierKind::kHbm, before, 0);
  EXPECT_EQ(batch.served(TierKind::kHbm), 1u);
}

TEST(TierName, NamesEachTier) {
  EXPECT_STREQ(TierName(TierKind::kHbm), "hbm");
  EXPECT_STREQ(TierName(TierKind::kDram), "dram");
  EXPECT_STREQ(TierName(TierKind::kNvme), "nvme");
  EXPECT_EQ(kAllTiers.size(), kTierCount);
}

}  // namespace
}  // namespace engram
