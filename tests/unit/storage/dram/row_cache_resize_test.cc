// A cache that gets another budget while it is used.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "storage/dram/row_cache.h"
#include "tests/unit/storage/dram/derived_rows.h"

namespace engram {
namespace {

using dram_test::DeriveRow;

constexpr uint32_t kRowBytes = 264;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint32_t kLayerRows = 1u << 20;

uint64_t Seed() {
  const char* given = std::getenv("ENGRAM_TEST_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "ENGRAM_TEST_SEED=" << seed << std::endl;
  return seed;
}

void OfferRows(RowCache& cache, uint32_t first, uint32_t count) {
  std::vector<std::byte> row(kRowBytes);
  for (uint32_t id = first; id < first + count; ++id) {
    DeriveRow(id, absl::MakeSpan(row));
    const RowId row_id{id};
    cache.Offer(absl::MakeConstSpan(&row_id, 1), row);
  }
}

// How many of the first `count` rows are held; each is checked.
uint32_t HeldRows(const RowCache& cache, uint32_t count) {
  std::vector<std::byte> row(kRowBytes);
  std::vector<std::byte> expected(kRowBytes);
  uint32_t held = 0;
  for (uint32_t id = 0; id < count; ++id) {
    if (!cache.Peek(RowId{id}, absl::MakeSpan(row))) continue;
    ++held;
    DeriveRow(id, absl::MakeSpan(expected));
    EXPECT_EQ(std::memcmp(row.data(), expected.data(), kRowBytes), 0) << "row " << id;
  }
  return held;
}

// Reads 64 of the first `rows` rows, offers those that are missing, and counts the others: all of
// them in `read`, and in `wrong` those with other bytes than their own.
void ReadAndOffer(RowCache& cache, std::mt19937_64& random, uint32_t rows,
                  std::atomic<uint64_t>& read, std::atomic<uint64_t>& wrong) {
  std::vector<RowId> ids(64);
  for (RowId& id : ids) id = RowId{static_cast<uint32_t>(random() % rows)};
  std::vector<std::byte> out(ids.size() * kRowBytes);
  RowBatch batch(ids, kRowBytes, absl::MakeSpan(out));
  cache.Read(batch);
  std::vector<bool> missing(ids.size());
  for (const uint32_t position : batch.missing()) missing[position] = true;
  std::vector<std::byte> expected(kRowBytes);
  for (uint32_t i = 0; i < ids.size(); ++i) {
    DeriveRow(Raw(ids[i]), absl::MakeSpan(expected));
    if (missing[i]) {
      cache.Offer(absl::MakeConstSpan(&ids[i], 1), expected);
    } else {
      wrong += std::memcmp(batch.row(i), expected.data(), kRowBytes) != 0;
      ++read;
    }
  }
}

// Ways of all sets that hold a row.
uint64_t TagsInUse(const RowCache& cache) {
  uint64_t rows = 0;
  for (const std::shared_ptr<Segment>& segment : cache.segments()) {
    for (uint32_t set = 0; set < cache.shape().per_segment; ++set) {
      const auto& line = *reinterpret_cast<const dram::TagLine*>(
          segment->data() + cache.shape().RowsOffset() + set * cache.shape().SetBytes());
      for (const uint32_t tag : line.tags) rows += tag != dram::kEmptyTag;
    }
  }
  return rows;
}

class RowCacheResizeTest : public ::testing::Test {
 protected:
  void Make(uint64_t budget_bytes, uint64_t rows = kLayerRows,
            dram::Admission admission = dram::Admission::kAll) {
    auto made = RowCache::Create({.budget_bytes = budget_bytes,
                                  .row_bytes = kRowBytes,
                                  .layer_rows = rows,
                                  .admission = admission,
                                  .segments = store_.get(),
                                  .counters = &counters_});
    ASSERT_TRUE(made.ok()) << made.status();
    cache_ = *std::move(made);
  }

  // As the tables do it, but for waiting: nobody else is here.
  void Resize(uint64_t budget_bytes) {
    auto resized = cache_->Resize(budget_bytes);
    ASSERT_TRUE(resized.ok()) << resized.status();
    if (*resized == nullptr) return;
    cache_->Discard(resized->get());
    cache_ = *std::move(resized);
  }

  std::unique_ptr<SegmentStore> store_ = SegmentStore::Anonymous();
  PrefetchCounters counters_;
  std::unique_ptr<RowCache> cache_;
};

TEST_F(RowCacheResizeTest, RowsStayAsFarAsThereIsRoom) {
  Make(32 * kMiB);
  ASSERT_GT(cache_->segments().size(), 8u);
  constexpr uint32_t kRows = 10000;  // a twelfth of what there is room for
  OfferRows(*cache_, 0, kRows);
  ASSERT_EQ(HeldRows(*cache_, kRows), kRows);
  const size_t segments = cache_->segments().size();
  Resize(16 * kMiB);
  EXPECT_LT(cache_->segments().size(), segments);
  EXPECT_LE(cache_->Usage().capacity_bytes, 16 * kMiB);
  // Half of the buckets have stayed where they were.
  const uint32_t held = HeldRows(*cache_, kRows);
  EXPECT_NEAR(held, kRows * cache_->segments().size() / segments, kRows / 20);
  EXPECT_EQ(cache_->Usage().rows, held);
  // What has gone comes again.
  OfferRows(*cache_, 0, kRows);
  EXPECT_EQ(HeldRows(*cache_, kRows), kRows);
  Resize(32 * kMiB);
  EXPECT_EQ(cache_->segments().size(), segments);
  EXPECT_GE(HeldRows(*cache_, kRows), kRows / 2 - kRows / 20);
  OfferRows(*cache_, 0, kRows);
  EXPECT_EQ(HeldRows(*cache_, kRows), kRows);
}

TEST_F(RowCacheResizeTest, AtEveryBudgetItTakesLessThanThatAndAnswersRightly) {
  std::mt19937_64 random(Seed());
  Make(24 * kMiB);
  for (int round = 0; round < 40; ++round) {
    const uint64_t budget = 5 * kMiB + random() % (40 * kMiB);
    const auto resized = cache_->Resize(budget);
    if (absl::IsFailedPrecondition(resized.status())) {  // another layout
      cache_->Discard();
      Make(budget);
    } else {
      ASSERT_TRUE(resized.ok()) << resized.status();
      if (*resized != nullptr) {
        // Made while the other has its memory, of which it has a part: never more than both.
        EXPECT_LE((*resized)->Usage().capacity_bytes, budget);
      }
      Resize(budget);
    }
    EXPECT_LE(cache_->Usage().capacity_bytes, budget);
    EXPECT_GE(cache_->Usage().capacity_bytes, budget / 4 * 3 - kMiB);
    OfferRows(*cache_, static_cast<uint32_t>(random() % 30000), 3000);
    EXPECT_GE(HeldRows(*cache_, 33000), 2000u);
    EXPECT_LE(cache_->Usage().rows, cache_->shape().Slots());
  }
}

TEST_F(RowCacheResizeTest, SaysWhatItCannotDo) {
  Make(8 * kMiB);
  EXPECT_EQ(cache_->Resize(100).status().code(), absl::StatusCode::kInvalidArgument);
  // Below one segment, another size of segments is better.
  EXPECT_EQ(cache_->Resize(300000).status().code(), absl::StatusCode::kFailedPrecondition);
  const auto same = cache_->Resize(8 * kMiB);
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(*same, nullptr);
  // All rows would have a place of their own then.
  Make(8 * kMiB, 100000);
  EXPECT_EQ(cache_->Resize(64 * kMiB).status().code(), absl::StatusCode::kFailedPrecondition);
  Make(64 * kMiB, 100000);
  ASSERT_EQ(cache_->shape().mode, dram::Mode::kResident);
  EXPECT_EQ(*cache_->Resize(128 * kMiB), nullptr);
  EXPECT_EQ(cache_->Resize(8 * kMiB).status().code(), absl::StatusCode::kFailedPrecondition);
}

// What is known of rows outlives the change: a stranger does not push out the popular.
TEST_F(RowCacheResizeTest, CountsStay) {
  Make(16 * kMiB, kLayerRows, dram::Admission::kFrequency);
  constexpr uint32_t kPopular = 2000;
  for (int round = 0; round < 8; ++round) {
    OfferRows(*cache_, 0, kPopular);
    for (uint32_t id = 0; id < kPopular; ++id) cache_->Touch(RowId{id}, 4);
  }
  ASSERT_EQ(HeldRows(*cache_, kPopular), kPopular);
  const size_t before = cache_->segments().size();
  Resize(8 * kMiB);
  const uint32_t held = HeldRows(*cache_, kPopular);
  EXPECT_NEAR(held, kPopular * cache_->segments().size() / before, kPopular / 10);
  OfferRows(*cache_, 100000, 300000);  // ten times what there is room for, each once
  EXPECT_EQ(HeldRows(*cache_, kPopular), held);
}

TEST_F(RowCacheResizeTest, PrefetchedRowsOfWhatGoesAreCounted) {
  Make(16 * kMiB);
  std::vector<RowId> ids;
  for (uint32_t id = 0; id < 1000; ++id) ids.push_back(RowId{id});
  std::vector<std::byte> rows(ids.size() * kRowBytes);
  cache_->Offer(ids, rows, RowCache::Source::kPrefetch);
  ASSERT_EQ(counters_.Waiting(), 1000u);
  Resize(8 * kMiB);
  EXPECT_GT(counters_.unused, 300u);
  EXPECT_LT(counters_.unused, 700u);
  cache_.reset();
  EXPECT_EQ(counters_.unused, 1000u);
}

// Readers and writers hold on to the cache that they have begun with, as the tier stack's do.
TEST_F(RowCacheResizeTest, ReadersAndWritersGoOnMeanwhile) {
  std::mt19937_64 random(Seed());
  constexpr uint32_t kRows = 40000;
  Make(12 * kMiB);
  std::shared_ptr<RowCache> current = std::move(cache_);
  Mutex mutex;
  const auto get = [&] {
    MutexLock lock(mutex);
    return current;
  };
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> read{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, seed = random()] {
      std::mt19937_64 own(seed);
      while (!stop) ReadAndOffer(*get(), own, kRows, read, wrong);
    });
  }
  for (int round = 0; round < 60; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::shared_ptr<RowCache> before = get();
    auto resized = before->Resize((8 + random() % 12) * kMiB);
    ASSERT_TRUE(resized.ok()) << resized.status();
    if (*resized == nullptr) continue;
    std::shared_ptr<RowCache> now = *std::move(resized);
    {
      MutexLock lock(mutex);
      current = now;
    }
    while (before.use_count() > 1) std::this_thread::yield();
    before->Discard(now.get());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(read, 1000u);
  // Nothing was counted twice or forgotten.
  EXPECT_EQ(current->Usage().rows, TagsInUse(*current));
}

}  // namespace
}  // namespace engram
