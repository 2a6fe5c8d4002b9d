#include "storage/dram/row_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "storage/table/spec.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/dram/derived_rows.h"

namespace engram {
namespace {

using dram_test::DeriveRow;

// Reads one batch; positions that were served are checked, the others returned.
std::vector<uint32_t> ReadAndCheck(RowCache& cache, const std::vector<RowId>& ids,
                                   uint32_t row_bytes) {
  std::vector<std::byte> out(ids.size() * row_bytes, std::byte{0xEE});
  RowBatch batch(ids, row_bytes, absl::MakeSpan(out));
  cache.Read(batch);
  std::vector<bool> missing(ids.size());
  for (const uint32_t position : batch.missing()) missing[position] = true;
  std::vector<std::byte> expected(row_bytes);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (missing[i]) continue;
    expected.assign(row_bytes, std::byte{0});
    if (ids[i] != RowId::kDeadPosition) DeriveRow(Raw(ids[i]), absl::MakeSpan(expected));
    EXPECT_EQ(std::memcmp(expected.data(), &out[i * row_bytes], row_bytes), 0)
        << "row " << Raw(ids[i]) << " of " << row_bytes << " bytes";
  }
  return batch.missing();
}

// In memory of this process: where segments lie is segment_test's matter.
absl::StatusOr<std::unique_ptr<RowCache>> MakeCache(
    uint64_t budget_bytes, uint32_t row_bytes, uint64_t rows, WorkPool* helpers = nullptr,
    PrefetchCounters* counters = nullptr, dram::Admission admission = dram::Admission::kAll) {
  static SegmentStore* const store = SegmentStore::Anonymous().release();
  return RowCache::Create({.budget_bytes = budget_bytes,
                           .row_bytes = row_bytes,
                           .layer_rows = rows,
                           .admission = admission,
                           .segments = store,
                           .helpers = helpers,
                           .counters = counters});
}

void OfferRow(RowCache& cache, RowId id, uint32_t row_bytes) {
  std::vector<std::byte> row(row_bytes);
  DeriveRow(Raw(id), absl::MakeSpan(row));
  cache.Offer(absl::MakeConstSpan(&id, 1), row);
}

TEST(RowCacheTest, NeverTakesMoreThanItsBudgetAndServesWhatItHolds) {
  std::mt19937_64 random(TestSeed());
  for (const uint32_t row_bytes : {1u, 7u, 8u, 33u, 160u, 264u, 4095u, 4096u}) {
    for (const uint64_t budget : {uint64_t{70000}, uint64_t{1} << 20, uint64_t{5} << 20}) {
      auto cache = MakeCache(budget, row_bytes, 100000);
      ASSERT_TRUE(cache.ok()) << cache.status();
      EXPECT_LE((*cache)->Usage().capacity_bytes, budget);
      std::vector<RowId> ids;
      for (int i = 0; i < 3000; ++i) {
        ids.push_back(RowId{static_cast<uint32_t>(random() % 100000)});
        OfferRow(**cache, ids.back(), row_bytes);
      }
      const std::vector<uint32_t> missing = ReadAndCheck(**cache, ids, row_bytes);
      EXPECT_LT(missing.size(), ids.size());
      EXPECT_LE((*cache)->Usage().rows * row_bytes, budget);
      for (const uint32_t position : missing) EXPECT_FALSE((*cache)->Contains(ids[position]));
    }
  }
}

TEST(RowCacheTest, RefusesABudgetBelowOneSetAndBadRowSizes) {
  EXPECT_EQ(MakeCache(100, 264, 1000).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCache(0, 264, 1000).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCache(1 << 20, 0, 1000).status().code(), absl::StatusCode::kInvalidArgument);
}

// Counted alike where rows are evicted and where every row has its slot.
TEST(RowCacheTest, CountsWhatBecomesOfPrefetchedRows) {
  constexpr uint32_t kRowBytes = 64;
  for (const uint64_t budget : {uint64_t{70000}, uint64_t{64} << 20}) {
    PrefetchCounters counters;
    uint64_t evicted = 0;
    {
      auto cache = MakeCache(budget, kRowBytes, 100000, nullptr, &counters);
      ASSERT_TRUE(cache.ok()) << cache.status();
      std::vector<RowId> ids;
      std::vector<std::byte> rows(200 * kRowBytes);
      for (uint32_t i = 0; i < 200; ++i) {
        ids.push_back(RowId{i * 37});
        DeriveRow(i * 37, absl::MakeSpan(rows).subspan(i * kRowBytes, kRowBytes));
      }
      const auto all = absl::MakeConstSpan(ids);
      (*cache)->Offer(all.first(10), absl::MakeConstSpan(rows).first(10 * kRowBytes));
      // Those that are there already are not the prefetch's.
      (*cache)->Offer(ids, rows, RowCache::Source::kPrefetch);
      EXPECT_EQ(counters.stored.load(), 190u);
      EXPECT_EQ(counters.Waiting(), 190u);
      const std::vector<RowId> some(ids.begin(), ids.begin() + 50);
      for (int round = 0; round < 2; ++round) {
        EXPECT_TRUE(ReadAndCheck(**cache, some, kRowBytes).empty());
        EXPECT_EQ(counters.used.load(), 40u);
      }
      EXPECT_EQ(counters.unused.load(), 0u);
      for (uint32_t i = 0; i < 20000; ++i) OfferRow(**cache, RowId{50000 + i}, kRowBytes);
      evicted = counters.unused.load();
      EXPECT_EQ(evicted > 0, budget == 70000);
    }
    EXPECT_EQ(counters.unused.load(), 150u);
    EXPECT_EQ(counters.Waiting(), 0u);
    EXPECT_LE(evicted, 150u);
  }
}

TEST(RowCacheTest, HoldsAWholeSmallLayer) {
  constexpr uint32_t kRows = 1000;
  auto cache = MakeCache(uint64_t{4} << 20, 264, kRows);
  ASSERT_TRUE(cache.ok());
  std::vector<RowId> ids;
  for (uint32_t id = 0; id < kRows; ++id) {
    ids.push_back(RowId{id});
    OfferRow(**cache, RowId{id}, 264);
  }
  ids.push_back(RowId::kDeadPosition);
  ids.push_back(RowId{5});
  EXPECT_TRUE(ReadAndCheck(**cache, ids, 264).empty());
  EXPECT_EQ((*cache)->Usage().rows, kRows);
  OfferRow(**cache, RowId{5}, 264);  // held already
  EXPECT_EQ((*cache)->Usage().rows, kRows);
}

// Readers of a complete layer look at no bits, so it must not be complete one row too early.
TEST(RowCacheTest, TheLastRowOfAWholeSmallLayerIsMissingUntilItIsOffered) {
  constexpr uint32_t kRows = 1000;
  auto cache = MakeCache(uint64_t{4} << 20, 264, kRows);
  ASSERT_TRUE(cache.ok());
  ASSERT_EQ((*cache)->shape().mode, dram::Mode::kResident);
  for (uint32_t id = 0; id < kRows - 1; ++id) OfferRow(**cache, RowId{id}, 264);
  const std::vector<RowId> ends = {RowId{0}, RowId{kRows - 1}};
  // Twice: a reader may remember what it has learnt.
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(ReadAndCheck(**cache, ends, 264), std::vector<uint32_t>{1});
  }
  OfferRow(**cache, RowId{kRows - 1}, 264);
  EXPECT_TRUE(ReadAndCheck(**cache, ends, 264).empty());
}

TEST(RowCacheTest, FirstLastAndAllZeroRowsAreHits) {
  auto cache = MakeCache(uint64_t{1} << 20, 16, kMaxLayerRows);
  ASSERT_TRUE(cache.ok());
  const std::vector<std::byte> zeros(16);
  for (const RowId id : {RowId{0}, RowId{0xFFFFFFFEu}}) {
    EXPECT_FALSE((*cache)->Contains(id));
    (*cache)->Offer(absl::MakeConstSpan(&id, 1), zeros);
    EXPECT_TRUE((*cache)->Contains(id));
    std::vector<std::byte> out(16, std::byte{1});
    EXPECT_TRUE((*cache)->Peek(id, absl::MakeSpan(out)));
    EXPECT_EQ(out, zeros);
  }
  (*cache)->Offer({RowId::kDeadPosition}, zeros);
  EXPECT_FALSE((*cache)->Contains(RowId::kDeadPosition));
}

TEST(RowCacheTest, EvictionSparesWhatWasUsed) {
  // One set of 15 ways: 14 rows are read between offers, so only the others may go.
  auto cache = MakeCache(8192, 264, 1000000);
  ASSERT_TRUE(cache.ok());
  std::vector<RowId> hot;
  for (uint32_t id = 0; id < 7; ++id) hot.push_back(RowId{id});
  for (const RowId id : hot) OfferRow(**cache, id, 264);
  for (uint32_t id = 100; id < 400; ++id) {
    EXPECT_TRUE(ReadAndCheck(**cache, hot, 264).empty()) << id;
    OfferRow(**cache, RowId{id}, 264);
  }
}

TEST(RowCacheTest, HelpersGatherLargeBatchesLikeOneThread) {
  std::mt19937_64 random(TestSeed());
  WorkPool helpers(3);
  constexpr uint32_t kRows = 4000;
  auto cache = MakeCache(uint64_t{4} << 20, 264, kRows, &helpers);
  ASSERT_TRUE(cache.ok());
  for (uint32_t id = 0; id < kRows; ++id) {
    if (id % 3 != 0) OfferRow(**cache, RowId{id}, 264);
  }
  for (const size_t count : {511, 512, 513, 1024, 5000, 20001}) {
    SCOPED_TRACE(count);
    std::vector<RowId> ids(count);
    std::vector<uint32_t> expected;
    for (uint32_t i = 0; i < count; ++i) {
      ids[i] = random() % 50 == 0 ? RowId::kDeadPosition
                                  : RowId{static_cast<uint32_t>(random() % kRows)};
      if (ids[i] != RowId::kDeadPosition && Raw(ids[i]) % 3 == 0) expected.push_back(i);
    }
    EXPECT_EQ(ReadAndCheck(**cache, ids, 264), expected);
  }
}

TEST(RowCacheTest, RandomOperationsAgreeWithTheirSource) {
  std::mt19937_64 random(TestSeed());
  auto cache = MakeCache(200000, 40, 50000);
  ASSERT_TRUE(cache.ok());
  for (int round = 0; round < 2000; ++round) {
    std::vector<RowId> ids(1 + random() % 100);
    for (RowId& id : ids) {
      id =
          random() % 50 == 0 ? RowId::kDeadPosition : RowId{static_cast<uint32_t>(random() % 8000)};
    }
    for (const uint32_t position : ReadAndCheck(**cache, ids, 40)) {
      OfferRow(**cache, ids[position], 40);
      EXPECT_TRUE((*cache)->Contains(ids[position]));
    }
  }
}

}  // namespace
}  // namespace engram
