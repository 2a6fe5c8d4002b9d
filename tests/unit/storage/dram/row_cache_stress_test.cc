// Readers and writers at once on a few sets, with rows that show when they are torn. The same
// source is built a second time with ENGRAM_PLANT_RACE, which leaves out the check of the set's
// version: then torn rows must be found, or this test could not find any.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "storage/dram/row_cache.h"
#include "tests/unit/storage/dram/derived_rows.h"

namespace engram {
namespace {

using dram_test::DeriveRow;

constexpr uint32_t kRowBytes = 4096;
constexpr uint32_t kSets = 4;
constexpr uint32_t kIds = 64 * kSets;
// Each reader goes on until it has had this many hits, and until prefetched rows have come to both
// of their ends: on a busy machine the writers may get to run only late. The bound is for a cache
// that no longer hits, or a planted fault that is never met.
constexpr uint64_t kHits = 200000;
constexpr int kMaxRounds = 10000000;
// One round in eight hits nothing by chance; so many in a row do not.
constexpr int kPatience = 20;

#ifdef ENGRAM_PLANT_RACE
constexpr bool kPlanted = true;
#else
constexpr bool kPlanted = false;
#endif

class RowCacheStressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = RowCache::Create({.budget_bytes = kSets * kRowBytes * 16,
                                  .row_bytes = kRowBytes,
                                  .layer_rows = 1u << 20,
                                  .segments = store_.get(),
                                  .counters = &counters_});
    ASSERT_TRUE(made.ok()) << made.status();
    cache_ = *std::move(made);
    for (uint32_t id = 0; id < kIds; ++id) DeriveRow(id, absl::MakeSpan(rows_[id]));
  }

  // Offers rows until it is told to stop.
  void Write(uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> row(kRowBytes);
    while (!stop_) {
      const RowId id{static_cast<uint32_t>(random() % kIds)};
      const bool prefetched = random() % 2 == 0;
      // Made anew each time, so that the set is free for longer than it is taken.
      DeriveRow(Raw(id), absl::MakeSpan(row));
      cache_->Offer(absl::MakeConstSpan(&id, 1), row,
                    prefetched ? RowCache::Source::kPrefetch : RowCache::Source::kLookup);
    }
  }

  // Places rows, and sometimes looks at all that are held, until it is told to stop.
  void Place() {
    std::mt19937 random(300);
    std::vector<std::byte> row(kRowBytes);
    while (!stop_) {
      const RowId id{static_cast<uint32_t>(random() % kIds)};
      const uint32_t count = 1 + random() % dram::kMaxCount;
      DeriveRow(Raw(id), absl::MakeSpan(row));
      if (cache_->HasRoomFor(id, count)) placed_ += cache_->Place({&id, 1}, count, row);
      if (random() % 64 != 0) continue;
      std::vector<int> seen(kIds);
      cache_->VisitHeld(0, cache_->Units(), [&](RowId held, uint32_t known) {
        // Of one state of a set: no row that was never there, none twice.
        impossible_ += Raw(held) >= kIds || known == 0 || known > dram::kMaxCount;
        if (Raw(held) < kIds) impossible_ += ++seen[Raw(held)] > 1;
      });
    }
  }

  // Reads until it has seen enough.
  void Read(uint32_t seed) {
    std::mt19937 random(seed);
    uint64_t own_hits = 0;
    int rounds_without_hit = 0;
    const auto seen_enough = [&] {
      if (kPlanted) return torn_ > 0;
      return own_hits >= kHits && counters_.used > 0 && counters_.unused > 0 && placed_ > 0;
    };
    for (int round = 0; round < kMaxRounds && !seen_enough(); ++round) {
      const uint64_t found = ReadBatch(random);
      own_hits += found;
      // Writers that have lost their processors may hold all sets: let them have ours.
      rounds_without_hit = found == 0 ? rounds_without_hit + 1 : 0;
      if (rounds_without_hit > kPatience) std::this_thread::yield();
    }
    hits_ += own_hits;
  }

  // Reads a batch and compares it; the number of hits.
  uint64_t ReadBatch(std::mt19937& random) {
    std::vector<RowId> ids(8);
    for (RowId& id : ids) id = RowId{static_cast<uint32_t>(random() % kIds)};
    std::vector<std::byte> out(ids.size() * kRowBytes);
    RowBatch batch(ids, kRowBytes, absl::MakeSpan(out));
    cache_->Read(batch);
    std::vector<bool> missing(ids.size());
    for (const uint32_t position : batch.missing()) missing[position] = true;
    for (uint32_t i = 0; i < ids.size(); ++i) {
      if (missing[i]) continue;
      if (std::memcmp(batch.row(i), rows_[Raw(ids[i])].data(), kRowBytes) != 0) ++torn_;
    }
    return ids.size() - batch.missing().size();
  }

  PrefetchCounters counters_;
  const std::unique_ptr<SegmentStore> store_ = SegmentStore::Anonymous();
  std::unique_ptr<RowCache> cache_;
  std::vector<std::vector<std::byte>> rows_ =
      std::vector<std::vector<std::byte>>(kIds, std::vector<std::byte>(kRowBytes));
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> torn_{0};
  std::atomic<uint64_t> hits_{0};
  std::atomic<uint64_t> placed_{0};
  std::atomic<uint64_t> impossible_{0};
};

TEST_F(RowCacheStressTest, NoReaderSeesATornRow) {
  std::vector<std::thread> writers;
  std::vector<std::thread> readers;
  for (uint32_t t = 0; t < 2; ++t) {
    writers.emplace_back([this, t] { Write(100 + t); });
    readers.emplace_back([this, t] { Read(200 + t); });
  }
  writers.emplace_back([this] { Place(); });
  for (std::thread& reader : readers) reader.join();
  stop_ = true;
  for (std::thread& writer : writers) writer.join();
  if (kPlanted) {
    EXPECT_GT(torn_, 0u) << "the planted fault was not found";
  } else {
    EXPECT_EQ(torn_, 0u);
    EXPECT_EQ(impossible_, 0u);
    EXPECT_GT(placed_, 0u);
    EXPECT_GE(hits_, 2 * kHits);
    EXPECT_GT(counters_.used, 0u);
    EXPECT_GT(counters_.unused, 0u);
  }
  // Every prefetched row comes to one end: used, or not.
  EXPECT_LE(counters_.Waiting(), 15u * kSets);
  cache_.reset();
  EXPECT_EQ(counters_.used + counters_.unused, counters_.stored);
}

}  // namespace
}  // namespace engram
