#include "gpu_cache/arena.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "tests/test_seed.h"
#include "tests/unit/gpu_cache/gather_rig.h"

namespace engram::gpu_cache {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(ArenaLayoutTest, ARegionTakesNoMoreThanItsBudget) {
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < 20000; ++i) {
    const auto row_bytes = static_cast<uint32_t>(1 + random() % 5000);
    const uint64_t rows = 1 + random() % (uint64_t{1} << (1 + random() % 32));
    const uint64_t budget = random() % (uint64_t{1} << (random() % 40));
    const RegionShape shape = FitRegion(budget, row_bytes, rows);
    if (shape.sectors == 0) {
      ASSERT_LT(budget, kRegionAlignment + kSectorBytes + kWays * RowStride(row_bytes));
      continue;
    }
    ASSERT_LE(shape.Bytes(), budget);
    if (shape.direct) {
      ASSERT_GE(shape.Slots(), rows);
      ASSERT_LT(shape.Slots(), rows + kWays);
    } else {
      ASSERT_LT(shape.Slots(), rows);
      const RegionShape more{.row_bytes = row_bytes, .sectors = shape.sectors + 1};
      ASSERT_GT(more.Bytes() + kRegionAlignment, budget) << "there was room for one more";
    }
  }
}

TEST(ArenaLayoutTest, EveryRowHasASectorOfItsRegion) {
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < 20000; ++i) {
    const auto sectors = static_cast<uint32_t>(1 + random() % (1u << (random() % 28)));
    ASSERT_LT(SectorOf(static_cast<uint32_t>(random()), sectors, false), sectors);
  }
  EXPECT_EQ(SectorOf(17, 100, true), 2u);
}

TEST(ArenaTest, TakesWholeUnitsOfItsBudget) {
  GatherRig rig;
  Check(rig.Open("host"));
  Check(Arena::Create(*rig.backend, kMiB + 4095, MemoryKind::kHost, rig.arena));
  EXPECT_EQ(rig.arena->bytes(), kMiB);
  const Status small = Arena::Create(*rig.backend, 4096, MemoryKind::kHost, rig.arena);
  EXPECT_EQ(small.code(), Code::kInvalid);
  EXPECT_NE(small.message().find("4096"), std::string::npos) << small.message();
  const Status other = Arena::Create(*rig.backend, kMiB, MemoryKind::kCudaVmm, rig.arena);
  EXPECT_EQ(other.code(), Code::kUnsupported);
}

TEST(ArenaTest, LayersShareByWeightAndNeverOverlap) {
  GatherRig rig;
  Check(rig.Open("host"));
  rig.MakeArena(8 * kMiB);
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 200; ++round) {
    std::vector<Arena::LayerShare> layers;
    const size_t count = 1 + random() % 8;
    for (size_t i = 0; i < count; ++i) {
      layers.push_back({.stack_id = static_cast<uint32_t>(1 + random() % 20),
                        .row_bytes = static_cast<uint32_t>(8 + random() % 600),
                        .layer_rows = 1 + random() % 100000,
                        .weight = 1 + random() % 1000});
    }
    std::sort(layers.begin(), layers.end(),
              [](const auto& a, const auto& b) { return a.stack_id < b.stack_id; });
    layers.erase(std::unique(layers.begin(), layers.end(),
                             [](const auto& a, const auto& b) { return a.stack_id == b.stack_id; }),
                 layers.end());
    Check(rig.arena->ShareOut(layers));
    uint64_t end = kArenaHeaderBytes;
    std::set<uint32_t> regions;
    for (const Arena::LayerShare& layer : layers) {
      const Arena::RegionState* held = rig.arena->Find(layer.stack_id);
      if (held == nullptr) continue;
      EXPECT_GE(held->index_offset, end);
      end = held->index_offset + held->shape.Bytes();
      EXPECT_LE(end, rig.arena->bytes());
      EXPECT_EQ(held->shape.row_bytes, layer.row_bytes);
      EXPECT_TRUE(regions.insert(held->region).second);
    }
  }
}

TEST(ArenaTest, WhoKeepsItsShareKeepsItsRows) {
  GatherRig rig;
  Check(rig.Open("host"));
  rig.MakeArena(kMiB);
  const Arena::LayerShare first{
      .stack_id = GatherRig::kStack, .row_bytes = 64, .layer_rows = 100000, .weight = 1};
  const Arena::LayerShare second{.stack_id = 9, .row_bytes = 64, .layer_rows = 100000, .weight = 1};
  Check(rig.arena->ShareOut(std::vector{first, second}));
  const std::vector<uint32_t> rows = {1, 2, 3, 4, 5};
  EXPECT_EQ(rig.Put(rows), rows);
  const Arena::LayerShare third{.stack_id = 12, .row_bytes = 64, .layer_rows = 100000, .weight = 1};
  Check(rig.arena->ShareOut(std::vector{first, third}));
  EXPECT_EQ(rig.arena->Find(GatherRig::kStack)->rows, 5u);
  EXPECT_EQ(rig.arena->Find(9), nullptr);
  EXPECT_EQ(rig.arena->Find(12)->rows, 0u);
  Check(rig.arena->ShareOut(std::vector{first}));
  EXPECT_EQ(rig.arena->Find(GatherRig::kStack)->rows, 0u) << "it has another share now";
}

TEST(ArenaTest, ReadsBackWhatSlotsHold) {
  GatherRig rig;
  Check(rig.Open("host"));
  rig.MakeArena(kMiB);
  rig.ShareOut(100, 50000);
  std::vector<uint32_t> rows;
  for (uint32_t id = 0; id < 500; ++id) rows.push_back(id * 31);
  rig.Put(rows);
  const Arena::RegionState& held = *rig.arena->Find(GatherRig::kStack);
  std::vector<uint64_t> slots;
  for (uint64_t slot = 0; slot < held.tags.size(); ++slot) {
    if (held.tags[slot] != kEmptyTag) slots.push_back(slot);
  }
  EXPECT_EQ(slots.size(), held.rows);
  std::vector<std::byte> read(slots.size() * 100);
  Check(rig.arena->Read(GatherRig::kStack, slots, read));
  for (size_t i = 0; i < slots.size(); ++i) {
    const std::vector<std::byte> row = RowOf(TagOf(held.tags[slots[i]]), 100);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), read.begin() + static_cast<long>(i) * 100));
  }
}

}  // namespace
}  // namespace engram::gpu_cache
