// The gather against a plain model, on every backend that there is.
#include "gpu_cache/gather.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "gpu_cache/gather_rows.h"
#include "storage/dram/control.h"
#include "storage/dram/row_cache.h"
#include "tests/test_seed.h"
#include "tests/unit/gpu_cache/gather_rig.h"

namespace engram::gpu_cache {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class GatherTest : public BackendTest {
 protected:
  // What a launch gave, row by row, when exactly the rows of `held` are to be found.
  void ExpectRows(const std::set<uint32_t>& held) {
    std::vector<uint32_t> missing;
    uint64_t zeros = 0;
    const uint64_t row_bytes = OutputRowBytes(rig_.options.row_bytes, rig_.options.output);
    for (uint32_t i = 0; i < rig_.ids.size(); ++i) {
      const uint32_t id = rig_.ids[i];
      std::vector<std::byte> expected(row_bytes);
      if (id == kDeadPosition) {
        ++zeros;
      } else if (held.contains(id)) {
        expected = Expected(RowOf(id, rig_.options.row_bytes), rig_.options.output);
      } else {
        missing.push_back(i);
      }
      const auto got = rig_.OutRow(i);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin())) << "position " << i;
    }
    EXPECT_EQ(rig_.Missing(), missing);
    const Report& report = rig_.gatherer->report();
    EXPECT_EQ(report.hbm_rows + report.dram_rows - served_before_,
              rig_.ids.size() - missing.size() - zeros);
    served_before_ = report.hbm_rows + report.dram_rows;
    EXPECT_EQ(report.zero_rows - zeros_before_, zeros);
    zeros_before_ = report.zero_rows;
    EXPECT_EQ(report.launches, ++launches_);
    ExpectSamples(held);
  }

  void ExpectSamples(const std::set<uint32_t>& held) {
    const uint32_t every = rig_.options.sample_every;
    std::vector<uint32_t> expected;
    if (every > 0) {
      for (uint32_t i = 0; i < rig_.ids.size(); ++i) {
        if ((i + launches_ - 1) % every != 0) continue;
        expected.push_back(held.contains(rig_.ids[i]) ? rig_.ids[i] : kDeadPosition);
      }
    }
    const auto samples = rig_.gatherer->samples();
    EXPECT_EQ(std::vector<uint32_t>(samples.begin(), samples.end()), expected);
  }

  // Ids of which some are in the arena, some are not, some are −1, some come several times.
  std::set<uint32_t> Mix(size_t count, const std::vector<uint32_t>& held, uint64_t layer_rows,
                         std::mt19937_64& random) {
    rig_.ids.clear();
    for (size_t i = 0; i < count; ++i) {
      const uint64_t kind = random() % 10;
      if (kind == 0) {
        rig_.ids.push_back(kDeadPosition);
      } else if (kind < 7 && !held.empty()) {
        rig_.ids.push_back(held[random() % held.size()]);
      } else {
        rig_.ids.push_back(static_cast<uint32_t>(random() % layer_rows));
      }
    }
    return {held.begin(), held.end()};
  }

  // Warps of threads are slow, and are large with few rows.
  size_t Sized(size_t count) const {
    return std::string(GetParam()) == "warps" ? std::min<size_t>(count, 1003) : count;
  }

  uint64_t served_before_ = 0;
  uint64_t zeros_before_ = 0;
  uint64_t launches_ = 0;
};

TEST_P(GatherTest, GivesWhatTheArenaHoldsInEveryRowSize) {
  std::mt19937_64 random(TestSeed());
  for (const uint32_t row_bytes : {1u, 7u, 8u, 100u, 128u, 160u, 264u, 320u, 512u, 4096u}) {
    SCOPED_TRACE(row_bytes);
    constexpr uint64_t kLayerRows = 1000000;
    served_before_ = zeros_before_ = launches_ = 0;
    rig_.MakeArena(4 * kMiB);
    rig_.ShareOut(row_bytes, kLayerRows);
    std::vector<uint32_t> wanted;
    for (int i = 0; i < 3000; ++i) wanted.push_back(static_cast<uint32_t>(random() % kLayerRows));
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    const std::vector<uint32_t> held = rig_.Put(wanted);
    EXPECT_GT(held.size(), 500u);
    rig_.MakeGatherer({.row_bytes = row_bytes, .max_rows = 5000, .sample_every = 7});
    for (const size_t count : {1u, 31u, 48u, 700u, 5000u}) {
      const std::set<uint32_t> there = Mix(Sized(count), held, kLayerRows, random);
      rig_.Launch();
      ExpectRows(there);
    }
  }
}

// As many as make a kernel give each warp several rows.
TEST_P(GatherTest, GivesLargeBatches) {
  std::mt19937_64 random(TestSeed());
  constexpr uint64_t kLayerRows = 1000000;
  rig_.MakeArena(16 * kMiB);
  rig_.ShareOut(264, kLayerRows);
  std::vector<uint32_t> wanted(50000);
  for (uint32_t i = 0; i < wanted.size(); ++i) wanted[i] = i * 17;
  const std::vector<uint32_t> held = rig_.Put(wanted);
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = 200003, .sample_every = 4});
  for (const size_t count : {20001u, 200003u}) {
    const std::set<uint32_t> there = Mix(Sized(count), held, kLayerRows, random);
    rig_.Launch();
    ExpectRows(there);
  }
}

TEST_P(GatherTest, GivesBf16) {
  std::mt19937_64 random(TestSeed());
  for (const uint32_t row_bytes : {33u, 66u, 264u, 528u}) {
    SCOPED_TRACE(row_bytes);
    served_before_ = zeros_before_ = launches_ = 0;
    rig_.MakeArena(4 * kMiB);
    rig_.ShareOut(row_bytes, 100000);
    std::vector<uint32_t> wanted(4000);
    for (uint32_t i = 0; i < wanted.size(); ++i) wanted[i] = i * 3;
    const std::vector<uint32_t> held = rig_.Put(wanted);
    rig_.MakeGatherer({.row_bytes = row_bytes, .max_rows = 40000, .output = Output::kBf16});
    for (const size_t count : {48u, 3000u, 40000u}) {
      const std::set<uint32_t> there = Mix(Sized(count), held, 100000, random);
      rig_.Launch();
      ExpectRows(there);
    }
  }
}

TEST_P(GatherTest, ALayerThatFitsIsFoundByItsIds) {
  std::mt19937_64 random(TestSeed());
  rig_.MakeArena(4 * kMiB);
  rig_.ShareOut(264, 10001);
  ASSERT_TRUE(rig_.arena->Find(GatherRig::kStack)->shape.direct);
  std::vector<uint32_t> wanted;
  for (uint32_t id = 0; id < 10001; ++id) {
    if (id % 3 != 0) wanted.push_back(id);
  }
  EXPECT_EQ(rig_.Put(wanted), wanted) << "each row has its place";
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = 1000});
  const std::set<uint32_t> there = Mix(1000, wanted, 10001, random);
  rig_.ids[0] = 10001;  // the layer has no such row, nor these
  rig_.ids[1] = 0xFFFFFFFE;
  rig_.Launch();
  ExpectRows(there);
}

TEST_P(GatherTest, ReadsNothingOfARegionThatIsAnothers) {
  rig_.MakeArena(kMiB);
  rig_.ShareOut(64, 10000);
  const std::vector<uint32_t> rows = {1, 2, 3};
  rig_.Put(rows);
  rig_.MakeGatherer({.row_bytes = 64, .max_rows = 10});
  rig_.ids = rows;
  rig_.Launch();
  ExpectRows({1, 2, 3});
  const Arena::LayerShare other{.stack_id = 8, .row_bytes = 64, .layer_rows = 10000};
  Check(rig_.arena->ShareOut({&other, 1}));
  rig_.Launch();  // what it knows of the arena is what it was told before
  ExpectRows({});
  Check(rig_.arena->ShareOut({}));
  rig_.Launch();
  ExpectRows({});
}

// Nothing but the epoch tells that a region was given up: all its words stay as they were.
TEST_P(GatherTest, ReadsNothingOfARegionThatWasGivenUp) {
  rig_.MakeArena(kMiB);
  rig_.ShareOut(64, 10000);
  const std::vector<uint32_t> rows = {1, 2, 3};
  ASSERT_EQ(rig_.Put(rows), rows);
  rig_.MakeGatherer({.row_bytes = 64, .max_rows = 10});
  rig_.ids = rows;
  Check(rig_.arena->ShareOut({}));
  rig_.Launch();
  ExpectRows({});
}

TEST_P(GatherTest, SlotsThatAreGivenToOtherRowsAreFoundUnderTheirIds) {
  rig_.MakeArena(kMiB);
  rig_.ShareOut(264, 100000);
  std::vector<uint32_t> wanted(2000);
  for (uint32_t i = 0; i < wanted.size(); ++i) wanted[i] = i;
  std::vector<uint32_t> held = rig_.Put(wanted);
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = 4000});
  // Every second slot is emptied; then they are filled with others.
  const Arena::RegionState& region = *rig_.arena->Find(GatherRig::kStack);
  std::vector<uint64_t> emptied;
  std::set<uint32_t> there(held.begin(), held.end());
  for (uint64_t slot = 0; slot < region.tags.size(); slot += 2) {
    if (region.tags[slot] == kEmptyTag) continue;
    there.erase(TagOf(region.tags[slot]));
    emptied.push_back(slot);
  }
  Check(rig_.arena->Replace(GatherRig::kStack, emptied, {}, {}));
  rig_.ids = wanted;
  rig_.Launch();
  ExpectRows(there);
  std::vector<uint32_t> others(2000);
  for (uint32_t i = 0; i < others.size(); ++i) others[i] = 50000 + i;
  for (const uint32_t id : rig_.Put(others)) there.insert(id);
  EXPECT_EQ(there.size(), region.rows);
  rig_.ids.insert(rig_.ids.end(), others.begin(), others.end());
  rig_.Launch();
  ExpectRows(there);
}

TEST_P(GatherTest, CompletesMisses) {
  for (const Output output : {Output::kRaw, Output::kBf16}) {
    served_before_ = zeros_before_ = launches_ = 0;
    rig_.MakeArena(kMiB);
    rig_.ShareOut(264, 100000);
    rig_.Put(std::vector<uint32_t>{1, 3, 5});
    rig_.MakeGatherer({.row_bytes = 264, .max_rows = 10000, .output = output});
    rig_.ids.clear();
    for (uint32_t id = 0; id < Sized(10000); ++id) rig_.ids.push_back(id);
    rig_.Launch();
    ExpectRows({1, 3, 5});
    std::vector<uint32_t> positions;
    std::vector<std::byte> rows;
    for (const Miss& miss : rig_.gatherer->missing()) {
      positions.push_back(miss.position);
      const std::vector<std::byte> row = RowOf(miss.row_id, 264);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    Check(rig_.gatherer->Complete(positions, rows, rig_.out_buffer->data(), rig_.stream->handle()));
    Check(rig_.gatherer->Wait(rig_.stream->handle()));
    rig_.Fetch();
    for (uint32_t i = 0; i < rig_.ids.size(); ++i) {
      const std::vector<std::byte> expected = Expected(RowOf(rig_.ids[i], 264), output);
      const auto got = rig_.OutRow(i);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin())) << i;
    }
  }
}

TEST_P(GatherTest, RefusesWhatItCannotDo) {
  std::unique_ptr<Gatherer> none;
  EXPECT_EQ(rig_.backend->MakeGatherer({.row_bytes = 0, .max_rows = 1}, none).code(),
            Code::kInvalid);
  EXPECT_EQ(rig_.backend->MakeGatherer({.row_bytes = 8, .max_rows = 0}, none).code(),
            Code::kInvalid);
  const Status bf16 =
      rig_.backend->MakeGatherer({.row_bytes = 256, .max_rows = 1, .output = Output::kBf16}, none);
  EXPECT_EQ(bf16.code(), Code::kInvalid);
  EXPECT_NE(bf16.message().find("256"), std::string::npos) << bf16.message();
  rig_.MakeArena(kMiB);
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = 4, .output = Output::kBf16});
  const auto* ids = reinterpret_cast<const uint32_t*>(rig_.ids_buffer->data());
  EXPECT_EQ(rig_.gatherer->Enqueue(ids, 5, rig_.out_buffer->data(), rig_.stream->handle()).code(),
            Code::kInvalid);
  EXPECT_EQ(
      rig_.gatherer->Enqueue(ids, 1, rig_.out_buffer->data() + 8, rig_.stream->handle()).code(),
      Code::kInvalid);
}

// The DRAM tier as a worker sees it, with the real one's memory.
class DramGatherTest : public GatherTest {
 protected:
  void MakeCache(uint64_t budget, uint32_t row_bytes, uint64_t layer_rows) {
    segments_ = SegmentStore::Anonymous();
    auto cache = RowCache::Create({.budget_bytes = budget,
                                   .row_bytes = row_bytes,
                                   .layer_rows = layer_rows,
                                   .segments = segments_.get(),
                                   .counters = &counters_});
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
    for (const auto& segment : cache_->segments()) {
      Check(rig_.backend->Register(segment->data(), segment->bytes(), false,
                                   registered_.emplace_back()));
      addresses_.push_back(registered_.back()->data());
    }
    Check(rig_.backend->Register(page_.data(), page_.size(), false, control_));
  }

  void Offer(uint32_t id) {
    const RowId row{id};
    const std::vector<std::byte> bytes = RowOf(id, rig_.options.row_bytes);
    cache_->Offer({&row, 1}, bytes);
  }

  void UseBoth(uint64_t generation) {
    Source source = rig_.ArenaSource();
    source.dram = DramViewOf(cache_->shape());
    source.dram.generation = reinterpret_cast<const uint64_t*>(
        control_->data() + offsetof(dram::ControlPage, generation));
    source.dram.attached_generation = generation;
    Check(rig_.gatherer->SetSource(source, addresses_, cache_->bucket_segments(),
                                   rig_.stream->handle()));
  }

  void SetGeneration(uint64_t generation) {
    reinterpret_cast<dram::ControlPage*>(page_.data())->generation = generation;
  }

  PrefetchCounters counters_;
  std::unique_ptr<SegmentStore> segments_;
  std::unique_ptr<RowCache> cache_;
  std::vector<std::unique_ptr<MappedMemory>> registered_;
  std::vector<const std::byte*> addresses_;
  struct alignas(4096) Page {
    std::byte bytes[4096]{};
    std::byte* data() { return bytes; }
    static constexpr size_t size() { return 4096; }
  } page_;
  std::unique_ptr<MappedMemory> control_;
};

TEST_P(DramGatherTest, TakesFromDramWhatTheArenaLacks) {
  std::mt19937_64 random(TestSeed());
  for (const uint32_t row_bytes : {64u, 160u, 264u}) {
    SCOPED_TRACE(row_bytes);
    served_before_ = zeros_before_ = launches_ = 0;
    registered_.clear();
    addresses_.clear();
    rig_.options.row_bytes = row_bytes;
    MakeCache(8 * kMiB, row_bytes, 1000000);
    ASSERT_EQ(cache_->shape().mode, dram::Mode::kCache);
    for (uint32_t id = 0; id < 20000; ++id) Offer(id * 5);
    std::set<uint32_t> there;
    std::vector<uint32_t> candidates;
    for (uint32_t id = 0; id < 20000; ++id) {
      candidates.push_back(id * 5);
      if (cache_->Contains(RowId{id * 5})) there.insert(id * 5);
    }
    EXPECT_GT(there.size(), 1000u);
    rig_.MakeArena(kMiB);
    rig_.ShareOut(row_bytes, 1000000);
    std::vector<uint32_t> hot;
    for (uint32_t id = 0; id < 3000; ++id) hot.push_back(id * 7);
    uint64_t in_arena = 0;
    for (const uint32_t id : rig_.Put(hot)) {
      there.insert(id);
      candidates.push_back(id);
      ++in_arena;
    }
    rig_.MakeGatherer({.row_bytes = row_bytes, .max_rows = 30000, .sample_every = 16});
    SetGeneration(42);
    UseBoth(42);
    for (const size_t count : {48u, 5000u, 30000u}) {
      Mix(Sized(count), candidates, 1000000, random);
      rig_.Launch();
      ExpectRows(there);
    }
    EXPECT_GT(rig_.gatherer->report().hbm_rows, 0u);
    EXPECT_GT(rig_.gatherer->report().dram_rows, 0u);
  }
}

TEST_P(DramGatherTest, AResidentLayerIsReadByItsBits) {
  std::mt19937_64 random(TestSeed());
  rig_.options.row_bytes = 264;
  MakeCache(8 * kMiB, 264, 20000);
  ASSERT_EQ(cache_->shape().mode, dram::Mode::kResident);
  std::set<uint32_t> there;
  for (uint32_t id = 0; id < 20000; ++id) {
    if (random() % 2 == 0) continue;
    Offer(id);
    there.insert(id);
  }
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = 20002});
  SetGeneration(3);
  UseBoth(3);
  rig_.ids.clear();
  const auto step = static_cast<uint32_t>(20002 / Sized(20002));
  for (uint32_t id = 0; id < 20000; id += step) rig_.ids.push_back(id);
  rig_.ids.push_back(20000);  // the layer has no such rows
  rig_.ids.push_back(20001);
  rig_.Launch();
  ExpectRows(there);
  for (uint32_t id = 0; id < 20000; ++id) Offer(id);
  Source source = rig_.ArenaSource();
  source.dram = DramViewOf(cache_->shape());
  source.dram.generation =
      reinterpret_cast<const uint64_t*>(control_->data() + offsetof(dram::ControlPage, generation));
  source.dram.attached_generation = 3;
  source.dram.complete = 1;  // nobody looks at bits any more
  Check(rig_.gatherer->SetSource(source, addresses_, {}, rig_.stream->handle()));
  rig_.Launch();
  for (uint32_t id = 0; id < 20000; ++id) there.insert(id);
  ExpectRows(there);
}

TEST_P(DramGatherTest, BelievesNothingOfAnotherGeneration) {
  rig_.options.row_bytes = 264;
  MakeCache(4 * kMiB, 264, 1000000);
  for (uint32_t id = 0; id < 100; ++id) Offer(id);
  rig_.MakeArena(kMiB);
  rig_.ShareOut(264, 1000000);
  rig_.Put(std::vector<uint32_t>{3, 4});
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = 100});
  rig_.ids = {1, 2, 3, 4};
  SetGeneration(1);
  UseBoth(1);
  rig_.Launch();
  ExpectRows({1, 2, 3, 4});
  SetGeneration(2);  // memory may go now
  rig_.Launch();
  ExpectRows({3, 4});
  SetGeneration(dram::kRetired);
  rig_.Launch();
  ExpectRows({3, 4});
}

INSTANTIATE_TEST_SUITE_P(Backends, GatherTest, testing::Values("host", "warps", "cuda"),
                         [](const auto& info) { return std::string(info.param); });
INSTANTIATE_TEST_SUITE_P(Backends, DramGatherTest, testing::Values("host", "warps", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

// What has to be the same after a row was copied, one thing at a time.
class IsBelievedTest : public testing::Test {
 protected:
  static constexpr uint32_t kRow = 41;
  bool Believed(const FoundRow& found) const {
    return IsBelieved(source_, region_, found, kRow, seen_);
  }

  Source source_{.dram = {.attached_generation = 5}};
  RegionNow region_{.epoch = 8};
  SeenAfter seen_{.tag = TagOf(kRow), .epoch = 8, .generation = 5};
  uint32_t version_ = 6;
  std::byte row_{};
};

TEST_F(IsBelievedTest, ARowOfHbmWhileItsRegionsEpochStays) {
  const FoundRow found{.row = &row_, .in_hbm = true};
  EXPECT_TRUE(Believed(found));
  for (const uint64_t epoch : {6u, 7u, 9u, 10u}) {
    seen_.epoch = epoch;
    EXPECT_FALSE(Believed(found)) << epoch;
  }
}

TEST_F(IsBelievedTest, AResidentRowOfDramInItsOwnGenerationOnly) {
  const FoundRow found{.row = &row_};
  EXPECT_TRUE(Believed(found));
  for (const uint64_t generation : {0u, 4u, 6u}) {
    seen_.generation = generation;
    EXPECT_FALSE(Believed(found)) << generation;
  }
}

TEST_F(IsBelievedTest, ARowOfASetWhileTagVersionAndGenerationStay) {
  const FoundRow found{.row = &row_, .version = &version_, .seen_version = 6};
  EXPECT_TRUE(Believed(found));
  for (const uint32_t version : {4u, 5u, 7u, 8u}) {
    version_ = version;
    EXPECT_FALSE(Believed(found)) << version;
  }
  version_ = 6;
  for (const uint32_t tag : {TagOf(kRow + 1), kEmptyTag}) {
    seen_.tag = tag;
    EXPECT_FALSE(Believed(found)) << tag;
  }
  seen_.tag = TagOf(kRow);
  for (const uint64_t generation : {4u, 6u}) {
    seen_.generation = generation;
    EXPECT_FALSE(Believed(found)) << generation;
  }
}

}  // namespace
}  // namespace engram::gpu_cache
