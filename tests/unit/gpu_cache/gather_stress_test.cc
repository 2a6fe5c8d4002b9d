// Rows come and go, in the arena and in the DRAM tier, while readers gather: with the host's gather
// and with the kernels' code, rows that show when they are torn or are another's. The same source
// is built a second time with ENGRAM_PLANT_RACE, which leaves out what is looked at after a copy:
// then wrong rows must be found, or this test could not find any.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "storage/dram/control.h"
#include "storage/dram/row_cache.h"
#include "tests/sanitizer.h"
#include "tests/test_seed.h"
#include "tests/unit/gpu_cache/gather_rig.h"

namespace engram::gpu_cache {
namespace {

#ifdef ENGRAM_PLANT_RACE
constexpr bool kPlanted = true;
#else
constexpr bool kPlanted = false;
#endif

constexpr uint32_t kIds = 512;
constexpr uint64_t kLayerRows = 1000000;

struct Case {
  const char* backend;
  uint32_t row_bytes;
  uint32_t batch;
  // The readers go on until so many rows were served while others changed; the other bound is for a
  // tier that no longer serves any, or a planted fault that is never met.
  uint64_t served;
  // Of warps, between two changes; in less time than they need for a row they would serve none.
  uint64_t most_steps = 0;
};
constexpr uint64_t kMostBatches = 2000000;
constexpr uint64_t kSteps = 300;
constexpr uint64_t kServed = kThreadSanitizer ? 100 : 600;  // as much slower

class GatherStressTest : public testing::TestWithParam<Case> {
 protected:
  // Two readers of `source`, while `change` runs in a loop with pauses; `served` says how many rows
  // of the tier a report counts.
  void Run(const Source& source, std::span<const std::byte* const> segments,
           const std::function<void(uint64_t round, std::mt19937_64&)>& change, uint64_t most_steps,
           const std::function<uint64_t(const Report&)>& served) {
    std::vector<std::vector<std::byte>> rows;
    for (uint32_t id = 0; id < kIds; ++id) rows.push_back(RowOf(id, GetParam().row_bytes));
    std::atomic<uint64_t> wrong{0};
    std::atomic<bool> stop{false};
    const auto read = [&](uint64_t seed) {
      GatherRig reader;
      Check(reader.Open(GetParam().backend));
      reader.MakeGatherer({.row_bytes = GetParam().row_bytes, .max_rows = GetParam().batch});
      Check(reader.gatherer->SetSource(source, segments, {}, nullptr));
      std::mt19937_64 random(seed);
      for (uint64_t batch = 0; batch < kMostBatches; ++batch) {
        reader.ids.resize(GetParam().batch);
        for (uint32_t& id : reader.ids) id = static_cast<uint32_t>(random() % kIds);
        reader.Launch();
        std::vector<bool> missing(reader.ids.size());
        for (const uint32_t position : reader.Missing()) missing[position] = true;
        for (uint32_t i = 0; i < reader.ids.size(); ++i) {
          const auto got = reader.OutRow(i);
          const bool right =
              missing[i]
                  ? std::all_of(got.begin(), got.end(), [](auto b) { return b == std::byte{}; })
                  : std::equal(got.begin(), got.end(), rows[reader.ids[i]].begin());
          if (!right) ++wrong;
        }
        if (kPlanted ? wrong > 0 : served(reader.gatherer->report()) >= GetParam().served) break;
      }
      EXPECT_TRUE(kPlanted || served(reader.gatherer->report()) >= GetParam().served);
    };
    std::vector<std::thread> readers;
    for (uint64_t i = 0; i < 2; ++i) readers.emplace_back(read, TestSeed() + 1 + i);
    std::thread writer([&] {
      std::mt19937_64 random(TestSeed());
      for (uint64_t round = 0; !stop; ++round) {
        change(round, random);
        if (most_steps == 0) continue;
        // Of a planted fault the sooner is the better, and nothing has to be served.
        const uint64_t next = WarpSteps() + random() % (kPlanted ? 4 : most_steps);
        while (!stop && WarpSteps() < next) {
          std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
      }
    });
    for (std::thread& reader : readers) reader.join();
    stop = true;
    writer.join();
    if (kPlanted) {
      EXPECT_GT(wrong, 0u) << "the planted race was not found";
    } else {
      EXPECT_EQ(wrong, 0u);
    }
  }
};

// Slots are given to other rows again and again, and now and then the layer loses its region.
TEST_P(GatherStressTest, NoReaderSeesHalfAChangeOfTheArena) {
  const uint32_t row_bytes = GetParam().row_bytes;
  GatherRig rig;
  Check(rig.Open("host"));
  rig.MakeArena((kArenaHeaderBytes + 240 * row_bytes) / 4096 * 4096);
  rig.ShareOut(row_bytes, kLayerRows);
  rig.options.row_bytes = row_bytes;
  std::vector<uint32_t> every(kIds);
  std::iota(every.begin(), every.end(), 0);
  const uint64_t period = GetParam().most_steps == 0 ? 1000 : 20;
  const auto change = [&](uint64_t round, std::mt19937_64& random) {
    if (round % period == 0) {  // the layer loses its region, and gets one anew
      Check(rig.arena->ShareOut({}));
      rig.ShareOut(row_bytes, kLayerRows);
      rig.Put(every);
      return;
    }
    const Arena::RegionState& held = *rig.arena->Find(GatherRig::kStack);
    const auto id = static_cast<uint32_t>(random() % kIds);
    const uint64_t slot =
        uint64_t{SectorOf(id, held.shape.sectors, held.shape.direct)} * kWays + random() % kWays;
    const auto first = held.tags.begin() + static_cast<ptrdiff_t>(slot / kWays * kWays);
    if (std::find(first, first + kWays, TagOf(id)) != first + kWays) return;
    const Arena::WriteSlot put{.slot = slot, .row_id = id};
    Check(rig.arena->Replace(GatherRig::kStack, {&slot, 1}, {&put, 1}, RowOf(id, row_bytes)));
  };
  Run(rig.ArenaSource(), {}, change, GetParam().most_steps,
      [](const Report& report) { return report.hbm_rows; });
}

// Rows are offered to a cache that has room for some of them and takes each.
TEST_P(GatherStressTest, NoReaderSeesHalfAChangeOfDram) {
  const uint32_t row_bytes = GetParam().row_bytes;
  PrefetchCounters counters;
  const std::unique_ptr<SegmentStore> segments = SegmentStore::Anonymous();
  const auto cache = RowCache::Create({.budget_bytes = 240 * row_bytes,
                                       .row_bytes = row_bytes,
                                       .layer_rows = kLayerRows,
                                       .admission = dram::Admission::kAll,
                                       .segments = segments.get(),
                                       .counters = &counters});
  ASSERT_TRUE(cache.ok()) << cache.status();
  ASSERT_EQ((*cache)->segments().size(), 1u);
  const std::byte* const segment = (*cache)->segments()[0]->data();
  dram::ControlPage page{};
  page.generation = 1;
  Source source{.row_bytes = row_bytes, .dram = DramViewOf((*cache)->shape())};
  source.dram.generation = reinterpret_cast<const uint64_t*>(&page.generation);
  source.dram.attached_generation = 1;
  const auto change = [&](uint64_t /*round*/, std::mt19937_64& random) {
    const RowId id{static_cast<uint32_t>(random() % kIds)};
    (*cache)->Offer({&id, 1}, RowOf(Raw(id), row_bytes));
  };
  // A change is one set's only, not the whole tier's.
  Run(source, {&segment, 1}, change, GetParam().most_steps / 20,
      [](const Report& report) { return report.dram_rows; });
}

// Of the warps: rows of any size, one and eight to a warp; of a known size, eight and sixteen.
INSTANTIATE_TEST_SUITE_P(Gathers, GatherStressTest,
                         testing::Values(Case{"host", 2048, 64, 80 * kServed},
                                         Case{"warps", 2048, 8, kServed, kSteps},
                                         Case{"warps", 2048, 64, kServed, kSteps},
                                         Case{"warps", 264, 64, kServed, kSteps},
                                         Case{"warps", 264, 600, 2 * kServed, kSteps}),
                         [](const auto& info) {
                           return std::string(info.param.backend) + "_" +
                                  std::to_string(info.param.row_bytes) + "_" +
                                  std::to_string(info.param.batch);
                         });

}  // namespace
}  // namespace engram::gpu_cache
