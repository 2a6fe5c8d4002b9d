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

TEST(RowCacheStressTest, NoReaderSeesATornRow) {
#ifdef ENGRAM_PLANT_RACE
  constexpr bool kPlanted = true;
#else
  constexpr bool kPlanted = false;
#endif
  PrefetchCounters counters;
  const std::unique_ptr<SegmentStore> store = SegmentStore::Anonymous();
  auto made = RowCache::Create({.budget_bytes = kSets * kRowBytes * 16,
                                .row_bytes = kRowBytes,
                                .layer_rows = 1u << 20,
                                .segments = store.get(),
                                .counters = &counters});
  ASSERT_TRUE(made.ok()) << made.status();
  RowCache& cache = **made;
  std::vector<std::vector<std::byte>> rows(kIds, std::vector<std::byte>(kRowBytes));
  for (uint32_t id = 0; id < kIds; ++id) DeriveRow(id, absl::MakeSpan(rows[id]));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> torn{0};
  std::atomic<uint64_t> hits{0};
  std::atomic<uint64_t> placed{0};
  std::atomic<uint64_t> impossible{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {  // a writer
      std::mt19937 random(100 + t);
      std::vector<std::byte> row(kRowBytes);
      while (!stop) {
        const RowId id{static_cast<uint32_t>(random() % kIds)};
        const bool prefetched = random() % 2 == 0;
        // Made anew each time, so that the set is free for longer than it is taken.
        DeriveRow(Raw(id), absl::MakeSpan(row));
        cache.Offer(absl::MakeConstSpan(&id, 1), row,
                    prefetched ? RowCache::Source::kPrefetch : RowCache::Source::kLookup);
      }
    });
    threads.emplace_back([&, t] {  // a reader
      std::mt19937 random(200 + t);
      std::vector<std::byte> out(8 * kRowBytes);
      std::vector<RowId> ids(8);
      uint64_t own_hits = 0;
      int rounds_without_hit = 0;
      const auto seen_enough = [&] {
        if (kPlanted) return torn > 0;
        return own_hits >= kHits && counters.used > 0 && counters.unused > 0 && placed > 0;
      };
      for (int round = 0; round < kMaxRounds && !seen_enough(); ++round) {
        for (RowId& id : ids) id = RowId{static_cast<uint32_t>(random() % kIds)};
        RowBatch batch(ids, kRowBytes, absl::MakeSpan(out));
        cache.Read(batch);
        std::vector<bool> missing(ids.size());
        for (const uint32_t position : batch.missing()) missing[position] = true;
        // Writers that have lost their processors may hold all sets: let them have ours.
        rounds_without_hit = batch.missing().size() == ids.size() ? rounds_without_hit + 1 : 0;
        if (rounds_without_hit > kPatience) std::this_thread::yield();
        for (uint32_t i = 0; i < ids.size(); ++i) {
          if (missing[i]) continue;
          ++own_hits;
          if (std::memcmp(batch.row(i), rows[Raw(ids[i])].data(), kRowBytes) != 0) ++torn;
        }
      }
      hits += own_hits;
    });
  }
  threads.emplace_back([&] {  // places rows, and sometimes looks at all that are held
    std::mt19937 random(300);
    std::vector<std::byte> row(kRowBytes);
    while (!stop) {
      const RowId id{static_cast<uint32_t>(random() % kIds)};
      const uint32_t count = 1 + random() % dram::kMaxCount;
      DeriveRow(Raw(id), absl::MakeSpan(row));
      if (cache.HasRoomFor(id, count)) placed += cache.Place({&id, 1}, count, row);
      if (random() % 64 != 0) continue;
      std::vector<int> seen(kIds);
      cache.VisitHeld(0, cache.Units(), [&](RowId held, uint32_t known) {
        // Of one state of a set: no row that was never there, none twice.
        impossible += Raw(held) >= kIds || known == 0 || known > dram::kMaxCount;
        if (Raw(held) < kIds) impossible += ++seen[Raw(held)] > 1;
      });
    }
  });
  for (const size_t reader : {1u, 3u}) threads[reader].join();
  stop = true;
  for (const size_t writer : {0u, 2u, 4u}) threads[writer].join();
  if (kPlanted) {
    EXPECT_GT(torn, 0u) << "the planted fault was not found";
  } else {
    EXPECT_EQ(torn, 0u);
    EXPECT_EQ(impossible, 0u);
    EXPECT_GT(placed, 0u);
    EXPECT_GE(hits, 2 * kHits);
    EXPECT_GT(counters.used, 0u);
    EXPECT_GT(counters.unused, 0u);
  }
  // Every prefetched row comes to one end: used, or not.
  EXPECT_LE(counters.Waiting(), 15u * kSets);
  made->reset();
  EXPECT_EQ(counters.used + counters.unused, counters.stored);
}

}  // namespace
}  // namespace engram
