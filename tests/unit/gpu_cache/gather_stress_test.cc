// Rows come and go in the arena while readers gather, with rows that show when they are torn or are
// another's. The same source is built a second time with ENGRAM_PLANT_RACE, which leaves out the
// check of the epoch: then wrong rows must be found, or this test could not find any.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/test_seed.h"
#include "tests/unit/gpu_cache/gather_rig.h"

namespace engram::gpu_cache {
namespace {

constexpr uint32_t kRowBytes = 2048;
constexpr uint32_t kIds = 512;
constexpr uint32_t kBatch = 64;
// The readers go on until so many rows were served while the set changed; the bounds are for an
// arena that no longer serves any, or a planted fault that is never met.
constexpr uint64_t kServed = 100000;
constexpr uint64_t kMostBatches = 2000000;

// Slots are given to other rows again and again, and now and then the layer loses its region.
void ChangeRows(Arena& arena, std::atomic<bool>& stop) {
  std::mt19937_64 random(TestSeed());
  const Arena::LayerShare layer{
      .stack_id = GatherRig::kStack, .row_bytes = kRowBytes, .layer_rows = 1000000};
  for (uint64_t round = 0; !stop; ++round) {
    if (round % 1000 == 999) Check(arena.ShareOut({}));
    Check(arena.ShareOut({&layer, 1}));
    const Arena::Held& held = *arena.Find(GatherRig::kStack);
    const auto id = static_cast<uint32_t>(random() % kIds);
    const uint64_t slot =
        uint64_t{SectorOf(id, held.shape.sectors, held.shape.direct)} * kWays + random() % kWays;
    const uint64_t first = slot / kWays * kWays;
    const bool is_there = std::find(held.tags.begin() + first, held.tags.begin() + first + kWays,
                                    TagOf(id)) != held.tags.begin() + first + kWays;
    if (is_there) continue;
    const Arena::Put put{.slot = slot, .row_id = id};
    Check(arena.Replace(GatherRig::kStack, {&slot, 1}, {&put, 1}, RowOf(id, kRowBytes)));
  }
}

TEST(GatherStressTest, NoReaderSeesHalfAChange) {
#ifdef ENGRAM_PLANT_RACE
  constexpr bool kPlanted = true;
#else
  constexpr bool kPlanted = false;
#endif
  GatherRig rig;
  Check(rig.Open("host"));
  rig.MakeArena(kArenaHeaderBytes + 512 * 1024);
  rig.ShareOut(kRowBytes, 1000000);
  std::vector<std::vector<std::byte>> rows;
  for (uint32_t id = 0; id < kIds; ++id) rows.push_back(RowOf(id, kRowBytes));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  std::vector<std::unique_ptr<GatherRig>> readers;
  for (int i = 0; i < 2; ++i) {
    auto& reader = readers.emplace_back(std::make_unique<GatherRig>());
    Check(reader->Open("host"));
    reader->MakeGatherer({.row_bytes = kRowBytes, .max_rows = kBatch});
    Source source = rig.ArenaSource();
    source.row_bytes = kRowBytes;
    Check(reader->gatherer->SetSource(source, {}, {}, nullptr));
  }
  std::vector<std::thread> threads;
  for (size_t t = 0; t < readers.size(); ++t) {
    threads.emplace_back([&, t] {
      GatherRig& reader = *readers[t];
      std::mt19937_64 random(TestSeed() + 1 + t);
      for (uint64_t batch = 0; batch < kMostBatches; ++batch) {
        reader.ids.resize(kBatch);
        for (uint32_t& id : reader.ids) id = static_cast<uint32_t>(random() % kIds);
        reader.Launch();
        std::vector<bool> missing(kBatch);
        for (const uint32_t position : reader.Missing()) missing[position] = true;
        for (uint32_t i = 0; i < kBatch; ++i) {
          const auto got = reader.OutRow(i);
          if (!missing[i] && !std::equal(got.begin(), got.end(), rows[reader.ids[i]].begin())) {
            ++wrong;
          }
        }
        if (reader.gatherer->report().hbm_rows >= kServed) break;
        if (kPlanted && wrong > 0) break;
      }
      EXPECT_TRUE(kPlanted || reader.gatherer->report().hbm_rows >= kServed);
    });
  }
  std::thread writer([&] { ChangeRows(*rig.arena, stop); });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  writer.join();
  if (kPlanted) {
    EXPECT_GT(wrong, 0u) << "the planted race was not found";
  } else {
    EXPECT_EQ(wrong, 0u);
  }
}

}  // namespace
}  // namespace engram::gpu_cache
