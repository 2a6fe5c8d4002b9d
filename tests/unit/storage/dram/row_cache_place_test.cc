// Rows that are placed because of what is known of them, and a look at what a cache holds.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <vector>

#include "storage/dram/row_cache.h"
#include "tests/unit/storage/dram/derived_rows.h"

namespace engram {
namespace {

using dram_test::DeriveRow;

constexpr uint32_t kRowBytes = 264;  // a set and its counts fill two pages, no more
constexpr uint32_t kWays = dram::kWays;

class PlaceTest : public ::testing::Test {
 protected:
  // With room for one set.
  void MakeCache(dram::Admission admission = dram::Admission::kFrequency) {
    MakeWithBudget(8192, 1u << 20, admission);
    ASSERT_NE(cache_, nullptr);
    ASSERT_EQ(cache_->Units(), 1u);
  }
  void MakeWithBudget(uint64_t budget, uint64_t layer_rows,
                      dram::Admission admission = dram::Admission::kFrequency) {
    cache_ = nullptr;
    auto made = RowCache::Create({.budget_bytes = budget,
                                  .row_bytes = kRowBytes,
                                  .layer_rows = layer_rows,
                                  .admission = admission,
                                  .segments = store_.get()});
    if (made.ok()) cache_ = *std::move(made);
  }

  bool Place(uint32_t id, uint32_t count) {
    const RowId row_id{id};
    return cache_->Place({&row_id, 1}, count, Row(id)) == 1;
  }
  void Offer(uint32_t id, RowCache::Source source = RowCache::Source::kLookup) {
    const RowId row_id{id};
    cache_->Offer({&row_id, 1}, Row(id), source);
  }
  static std::vector<std::byte> Row(uint32_t id) {
    std::vector<std::byte> row(kRowBytes);
    DeriveRow(id, absl::MakeSpan(row));
    return row;
  }
  std::map<uint32_t, uint32_t> Held() const {
    std::map<uint32_t, uint32_t> held;
    cache_->VisitHeld(0, cache_->Units(), [&](RowId id, uint32_t count) {
      EXPECT_TRUE(held.emplace(Raw(id), count).second) << "row " << Raw(id) << " is held twice";
    });
    return held;
  }
  void ExpectServed(uint32_t id) const {
    std::vector<std::byte> out(kRowBytes);
    ASSERT_TRUE(cache_->Peek(RowId{id}, absl::MakeSpan(out))) << id;
    EXPECT_EQ(out, Row(id)) << id;
  }

  const std::unique_ptr<SegmentStore> store_ = SegmentStore::Anonymous();
  std::unique_ptr<RowCache> cache_;
};

TEST_F(PlaceTest, FillsEmptyWaysThenTakesTheWeakest) {
  MakeCache();
  for (uint32_t id = 0; id < kWays; ++id) {
    EXPECT_TRUE(cache_->HasRoomFor(RowId{id}, 1));
    EXPECT_TRUE(Place(id, 10 + id));
    EXPECT_FALSE(cache_->HasRoomFor(RowId{id}, 255)) << "it is there";
    EXPECT_FALSE(Place(id, 255)) << "it is there";
  }
  EXPECT_EQ(cache_->Usage().rows, kWays);
  // Not instead of one that counts as much.
  EXPECT_FALSE(cache_->HasRoomFor(RowId{100}, 10));
  EXPECT_FALSE(Place(100, 10));
  EXPECT_TRUE(cache_->HasRoomFor(RowId{101}, 11));
  EXPECT_TRUE(Place(101, 11));
  // Row 0 is gone; now rows 1 and 101 count 11.
  EXPECT_FALSE(cache_->Contains(RowId{0}));
  EXPECT_FALSE(Place(102, 11));
  EXPECT_TRUE(Place(103, 200));
  EXPECT_TRUE(Place(104, 200));
  EXPECT_FALSE(cache_->Contains(RowId{1}));
  EXPECT_FALSE(cache_->Contains(RowId{101}));
  EXPECT_EQ(cache_->Usage().rows, kWays);
  std::map<uint32_t, uint32_t> expected = {{103, 200}, {104, 200}};
  for (uint32_t id = 2; id < kWays; ++id) expected[id] = 10 + id;
  EXPECT_EQ(Held(), expected);
  for (const auto& [id, count] : expected) ExpectServed(id);
}

TEST_F(PlaceTest, CountsDecideAgainstRowsThatComeLater) {
  MakeCache();
  for (uint32_t id = 0; id < kWays; ++id) Place(id, id == 7 ? 1 : 8);
  // A row that is asked for again and again takes the way of the one that counts least, and of no
  // other while those count more.
  for (int i = 0; i < 4; ++i) Offer(500);
  EXPECT_TRUE(cache_->Contains(RowId{500}));
  EXPECT_FALSE(cache_->Contains(RowId{7}));
  for (uint32_t id = 0; id < kWays; ++id) EXPECT_EQ(cache_->Contains(RowId{id}), id != 7) << id;
}

TEST_F(PlaceTest, WhatLookUpsKnowOfARowIsKept) {
  MakeCache();
  for (uint32_t id = 0; id < kWays; ++id) Place(id, 20);
  for (int i = 0; i < 6; ++i) Offer(500);  // a ghost by now
  EXPECT_FALSE(cache_->Contains(RowId{500}));
  cache_->Recall(RowId{3}, 2);  // less than is known
  EXPECT_EQ(Held().at(3), 20u);
  cache_->Recall(RowId{3}, 77);
  EXPECT_EQ(Held().at(3), 77u);
  EXPECT_TRUE(Place(500, 21));
  EXPECT_EQ(Held().at(500), 21u);
}

TEST_F(PlaceTest, PrefetchedRowsAreSpared) {
  MakeCache();
  for (uint32_t id = 0; id < kWays - 2; ++id) Place(id, 5);
  Offer(600, RowCache::Source::kPrefetch);
  Offer(601, RowCache::Source::kPrefetch);
  for (uint32_t id = 700; id < 720; ++id) Place(id, 200);
  EXPECT_TRUE(cache_->Contains(RowId{600}));
  EXPECT_TRUE(cache_->Contains(RowId{601}));
}

TEST_F(PlaceTest, OtherAdmissionsPlaceWhereThereIsRoom) {
  MakeCache(dram::Admission::kAll);
  for (uint32_t id = 0; id < kWays; ++id) EXPECT_TRUE(Place(id, 1));
  EXPECT_FALSE(cache_->HasRoomFor(RowId{100}, 255));
  EXPECT_FALSE(Place(100, 255));
  EXPECT_EQ(Held().size(), kWays);
  cache_ = nullptr;
  MakeCache(dram::Admission::kPrefetch);
  EXPECT_FALSE(cache_->HasRoomFor(RowId{1}, 255));
  EXPECT_FALSE(Place(1, 255));
}

TEST_F(PlaceTest, AResidentLayerTakesEveryRow) {
  constexpr uint32_t kRows = 1000;
  MakeWithBudget(1 << 20, kRows);
  ASSERT_NE(cache_, nullptr);
  ASSERT_EQ(cache_->shape().mode, dram::Mode::kResident);
  EXPECT_EQ(cache_->Units(), kRows);
  EXPECT_FALSE(cache_->HasRoomFor(RowId{kRows}, 1));
  EXPECT_FALSE(Place(kRows, 1));
  for (uint32_t id = 0; id < kRows; id += 3) {
    EXPECT_TRUE(cache_->HasRoomFor(RowId{id}, 1));
    EXPECT_TRUE(Place(id, 9));
    EXPECT_FALSE(Place(id, 9));
  }
  cache_->Recall(RowId{3}, 200);  // means nothing here
  std::map<uint32_t, uint32_t> expected;
  for (uint32_t id = 0; id < kRows; id += 3) expected[id] = 1;
  EXPECT_EQ(Held(), expected);
  for (const auto& [id, count] : expected) ExpectServed(id);
  for (uint32_t id = 0; id < kRows; ++id) Place(id, 1);
  EXPECT_EQ(cache_->Usage().rows, kRows);
  EXPECT_EQ(Held().size(), kRows);
}

// Pieces of a visit show each row once, over all segments.
TEST_F(PlaceTest, PiecesOfAVisitAddUp) {
  MakeWithBudget(uint64_t{3} << 20, 1u << 22);
  ASSERT_NE(cache_, nullptr);
  std::map<uint32_t, uint32_t> expected;
  for (uint32_t id = 0; id < 60000; ++id) {
    const uint32_t row_id = id * 61;
    if (Place(row_id, 1 + id % 255)) expected[row_id] = 1 + id % 255;
    // Those that were pushed out.
    if (id % 1000 == 999) {
      std::erase_if(expected, [&](const auto& row) { return !cache_->Contains(RowId{row.first}); });
    }
  }
  EXPECT_GT(expected.size(), 10000u);
  std::map<uint32_t, uint32_t> found;
  for (uint64_t first = 0; first < cache_->Units(); first += 7) {
    cache_->VisitHeld(first, 7, [&](RowId id, uint32_t count) {
      EXPECT_TRUE(found.emplace(Raw(id), count).second);
    });
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(found.size(), cache_->Usage().rows);
}

}  // namespace
}  // namespace engram
