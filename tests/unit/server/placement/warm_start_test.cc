// DRAM that does not begin empty: profiles, saved hotness, switches, over a real store.
#include "server/placement/warm_start.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "server/placement/profile_import.h"
#include "server/placement/row_filler.h"
#include "tests/unit/server/table_fixture.h"
#include "tests/unit/storage/profile/profile_testing.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using Kind = HotnessFiles::Kind;

// Room for some 900 of each layer's 4,000 rows.
constexpr uint64_t kBudget = 640 << 10;

uint64_t Seed() {
  const char* given = std::getenv("ENGRAM_TEST_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "ENGRAM_TEST_SEED=" << seed << std::endl;
  return seed;
}

class WarmStartTest : public TableFixture {
 protected:
  void TearDown() override {
    StopDaemon();
    TableFixture::TearDown();
  }

  // As the daemon does: made before the tables, started after all else.
  void StartDaemon() { StartDaemon({.directory = HotnessDirectory()}); }
  void StartDaemon(const WarmStart::Options& options, uint64_t budget = kBudget) {
    if (store_ == nullptr) OpenStore();
    warm_start_ = std::make_unique<WarmStart>(options);
    OpenTables(budget, warm_start_.get());
    warm_start_->Start(tables_.get());
  }
  // What is in memory is gone with the tables, as after a reboot.
  void StopDaemon() {
    if (warm_start_ != nullptr) warm_start_->Stop();
    tables_.reset();
    warm_start_.reset();
    store_.reset();
  }

  std::string HotnessDirectory() const { return directory_ + "/data/hotness"; }
  HotnessFiles::Key KeyOf(const TableSpec& spec, size_t layer = 0) const {
    return {spec.name, AddressingFingerprint(spec), spec.layers[layer].id};
  }
  bool FileExists(const TableSpec& spec, Kind kind) const {
    return std::filesystem::exists(HotnessFiles(HotnessDirectory()).PathOf(KeyOf(spec), kind));
  }
  std::string WriteProfile(const TableSpec& spec, const PlantedCounts& counts) {
    const std::string path = directory_ + "/hot";
    const absl::Status status = ProfileOf(spec, counts).Write(path);
    EXPECT_TRUE(status.ok()) << status;
    return path;
  }

  std::shared_ptr<const OpenTable> Table(uint64_t version = 0) {
    return tables_->Find("t", VersionId{version}).value();
  }
  std::set<uint32_t> Held(size_t layer) {
    std::set<uint32_t> held;
    const auto cache = Table()->layers[layer]->SharedDram();
    if (cache == nullptr) return held;
    cache->VisitHeld(0, cache->Units(), [&](RowId id, uint32_t) { held.insert(Raw(id)); });
    return held;
  }
  std::map<uint32_t, uint32_t> HeldCounts(size_t layer) {
    std::map<uint32_t, uint32_t> held;
    const auto cache = Table()->layers[layer]->SharedDram();
    cache->VisitHeld(0, cache->Units(), [&](RowId id, uint32_t count) { held[Raw(id)] = count; });
    return held;
  }
  uint64_t Placed(size_t layer) { return Table()->layers[layer]->probe().placed_rows.load(); }

  template <typename Done>
  static void WaitUntil(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ASSERT_TRUE(done());
  }
  // Until so many rows of each layer have been placed.
  void WaitForPlaced(uint64_t rows) {
    WaitUntil([&] { return Placed(0) >= rows && Placed(1) >= rows; });
  }

  // Looks these rows of both layers up, compares every byte with the version that answers, and
  // returns how many came from each tier.
  std::map<TierKind, uint64_t> LookUp(const std::vector<uint32_t>& ids, uint64_t version = 0) {
    const std::string bytes = Bytes(ids);
    auto lookup = Lookup::Start(*tables_, pool_, {},
                                {.table = "t",
                                 .version = VersionId{version},
                                 .layers = {{LayerId{1}, bytes}, {LayerId{14}, bytes}}});
    EXPECT_TRUE(lookup.ok()) << lookup.status();
    if (!(*lookup)->ReadMemory()) (*lookup)->ReadStorage();
    EXPECT_TRUE((*lookup)->Finish().ok());
    EXPECT_TRUE(RowsAreRight(**lookup));
    std::map<TierKind, uint64_t> served;
    for (const auto& part : (*lookup)->parts()) {
      for (const TierKind kind : kAllTiers) served[kind] += part->batch.served(kind);
    }
    (*lookup)->Warm();
    return served;
  }
  void ExpectAllFromDram(const std::set<uint32_t>& rows) {
    const auto served = LookUp({rows.begin(), rows.end()});
    EXPECT_EQ(served.at(TierKind::kDram), 2 * rows.size());
    EXPECT_EQ(served.at(TierKind::kNvme), 0u);
  }

  std::unique_ptr<WarmStart> warm_start_;
};

PlantedCounts SomeCounts(uint32_t step, uint32_t rows) {
  PlantedCounts counts;
  for (uint32_t i = 0; i < rows; ++i) counts[i * step] = 2 + i % 40;
  return counts;
}

std::set<uint32_t> RowsOf(const PlantedCounts& counts) {
  std::set<uint32_t> rows;
  for (const auto& [row, count] : counts) rows.insert(row);
  return rows;
}

TEST(ProfileLevelTest, LevelsKeepCountsToFivePercent) {
  EXPECT_EQ(LevelOf(0), 1);
  EXPECT_EQ(LevelOf(1), 1);
  EXPECT_EQ(LevelOf(2), 9);
  EXPECT_EQ(LevelOf(4), 17);
  EXPECT_EQ(LevelOf(0xFFFFFFFFu), 255);
  for (double count = 1; count < 3e9; count *= 1.1) {
    const double kept = LevelRatio(LevelOf(static_cast<uint32_t>(count)), 1);
    EXPECT_NEAR(kept / std::floor(count), 1, 0.05) << count;
  }
}

TEST(CountScaleTest, TheLastRowThatFitsGetsFour) {
  NumberHistogram rows{};
  rows[100] = 10;
  rows[60] = 50;
  rows[20] = 1000;
  CountScale scale = ProfileScale(rows, 60);
  EXPECT_EQ(scale[60], 4);
  EXPECT_EQ(scale[68], 8);
  EXPECT_EQ(scale[100], 128);  // 40 levels: 32 times
  EXPECT_EQ(scale[20], 1);
  EXPECT_EQ(scale[255], 255);
  scale = ProfileScale(rows, 61);
  EXPECT_EQ(scale[20], 4);
  EXPECT_EQ(scale[60], 128);
  EXPECT_EQ(ProfileScale(rows, 1u << 20)[20], 4) << "all fit";
  EXPECT_EQ(ProfileScale(rows, 5)[100], 4);
}

TEST_F(WarmStartTest, AProfilesRowsAreThereAtOnce) {
  LoadHashed("t", 1, nullptr);
  StartDaemon();
  const PlantedCounts counts = SomeCounts(7, 300);
  const std::string path = WriteProfile(HashedSpec("t", 1), counts);
  ASSERT_TRUE(warm_start_->TakeProfile(path, HashedSpec("t", 1)).ok());
  WaitForPlaced(300);
  EXPECT_EQ(Held(0), RowsOf(counts));
  EXPECT_EQ(Held(1), RowsOf(counts));
  ExpectAllFromDram(RowsOf(counts));
  EXPECT_EQ(
      tables_->Snapshot()[0].layers[1].tiers[static_cast<size_t>(TierKind::kDram)].placed_rows,
      300u);
}

// Which rows are kept where not all have room: in each set those that are asked for most often.
TEST_F(WarmStartTest, TheHottestRowsOfEachSetAreTaken) {
  std::mt19937_64 random(Seed());
  LoadHashed("t", 1, nullptr);
  StartDaemon();
  const TableSpec spec = HashedSpec("t", 1);
  PlantedCounts counts;
  for (uint32_t row = 0; row < 4000; ++row) {
    counts[row] = static_cast<uint32_t>(1 + 20000 / (1 + random() % 4000));
  }
  ASSERT_TRUE(warm_start_->TakeProfile(WriteProfile(spec, counts), spec).ok());
  const auto cache = Table()->layers[0]->SharedDram();
  const uint64_t slots = cache->shape().Slots();
  ASSERT_LT(slots, 1200u);
  WaitUntil([&] { return cache->Usage().rows == slots; });
  // Every row's own count, not that of its class.
  NumberHistogram levels{};
  for (const auto& [row, count] : counts) ++levels[LevelOf(count)];
  const CountScale scale = ProfileScale(levels, slots);
  WaitUntil([&] {
    for (const auto& [row, count] : HeldCounts(0)) {
      if (count != scale[LevelOf(counts.at(row))]) return false;
    }
    return true;
  });
  std::map<uint64_t, uint32_t> least_held, most_left;
  const std::set<uint32_t> held = Held(0);
  for (const auto& [row, count] : counts) {
    const uint64_t set = cache->shape().FirstSetOf(row);
    const uint32_t worth = scale[LevelOf(count)];
    if (held.contains(row)) {
      least_held.try_emplace(set, worth);
      least_held[set] = std::min(least_held[set], worth);
    } else {
      most_left[set] = std::max(most_left[set], worth);
    }
  }
  EXPECT_EQ(least_held.size(), slots / dram::kWays);
  for (const auto& [set, most] : most_left) {
    // Above 8, rows are placed by doublings.
    EXPECT_TRUE(most <= least_held[set] ||
                std::bit_width(most / 8) == std::bit_width(least_held[set] / 8))
        << "set " << set << ": " << most << " is left out, " << least_held[set] << " is held";
  }
}

TEST_F(WarmStartTest, WhatWasHeldComesBackAfterARestart) {
  LoadHashed("t", 1, nullptr);
  StartDaemon();
  std::mt19937_64 random(Seed());
  for (int round = 0; round < 40; ++round) {
    std::vector<uint32_t> ids;
    for (int i = 0; i < 200; ++i) ids.push_back(random() % 4000 * (random() % 4000) / 4000);
    LookUp(ids);
  }
  WaitUntil([&] { return warm_start_->Idle(); });
  const std::set<uint32_t> before[2] = {Held(0), Held(1)};
  const auto counts = HeldCounts(0);
  ASSERT_GT(before[0].size(), 500u);
  StopDaemon();
  StartDaemon();
  WaitUntil([&] { return Held(0) == before[0] && Held(1) == before[1]; });
  WaitUntil([&] { return HeldCounts(0) == counts; });
  EXPECT_EQ(Placed(0), before[0].size());
  EXPECT_EQ(LookUp({before[0].begin(), before[0].end()}).at(TierKind::kDram) > before[0].size(),
            true);
}

TEST_F(WarmStartTest, AResidentLayerComesBackToo) {
  LoadHashed("t", 1, nullptr);
  StartDaemon({.directory = HotnessDirectory()}, 64 << 20);
  std::vector<uint32_t> ids;
  for (uint32_t id = 0; id < 4000; id += 3) ids.push_back(id);
  LookUp(ids);
  WaitUntil([&] { return warm_start_->Idle(); });
  StopDaemon();
  StartDaemon({.directory = HotnessDirectory()}, 64 << 20);
  const std::set<uint32_t> rows(ids.begin(), ids.end());
  WaitUntil([&] { return Held(0) == rows && Held(1) == rows; });
  ExpectAllFromDram(rows);
}

TEST_F(WarmStartTest, ASwitchTakesTheIdsAlongAndReadsTheNewVersion) {
  for (const bool keep_live : {true, false}) {
    std::filesystem::remove_all(HotnessDirectory());
    if (store_ == nullptr) OpenStore();
    if (store_->List().empty()) {
      LoadHashed("t", 1, nullptr);
      LoadHashed("t", 2, nullptr);
    }
    StartDaemon({.directory = HotnessDirectory(), .keep_live = keep_live});
    ASSERT_TRUE(tables_->Activate("t", VersionId{1}).ok());
    const PlantedCounts counts = SomeCounts(5, 300);
    const TableSpec spec = HashedSpec("t", 1);
    ASSERT_TRUE(warm_start_->TakeProfile(WriteProfile(spec, {{0, 1}}), spec).ok());
    WaitForPlaced(1);
    WaitUntil([&] { return warm_start_->Idle(); });
    const std::set<uint32_t> asked = RowsOf(counts);
    LookUp({asked.begin(), asked.end()});
    const std::set<uint32_t> before = Held(0);
    EXPECT_EQ(before.size(), 300u);
    ASSERT_TRUE(tables_->Activate("t", VersionId{2}).ok());
    EXPECT_EQ(Table()->spec().version, VersionId{2});
    WaitUntil([&] { return Held(0) == before && Held(1) == before; });
    ExpectAllFromDram(before);  // and RowsAreRight by version 2
    EXPECT_TRUE(FileExists(spec, Kind::kLive));
    StopDaemon();
    EXPECT_EQ(FileExists(spec, Kind::kLive), keep_live);
  }
}

TEST_F(WarmStartTest, NothingIsSavedAtAStopWhenItShallNotOutliveTheDaemon) {
  LoadHashed("t", 1, nullptr);
  StartDaemon({.directory = HotnessDirectory(),
               .keep_live = false,
               .save_interval = std::chrono::milliseconds(5)});
  LookUp({1, 2, 3});
  WaitUntil([&] { return warm_start_->Idle(); });
  EXPECT_FALSE(FileExists(HashedSpec("t", 1), Kind::kLive));
  StopDaemon();
  EXPECT_FALSE(FileExists(HashedSpec("t", 1), Kind::kLive));
}

TEST_F(WarmStartTest, WhatIsHeldIsSavedNowAndThen) {
  LoadHashed("t", 1, nullptr);
  StartDaemon({.directory = HotnessDirectory(), .save_interval = std::chrono::milliseconds(5)});
  LookUp({1, 2, 3});
  WaitUntil([&] { return FileExists(HashedSpec("t", 1), Kind::kLive); });
}

TEST_F(WarmStartTest, LiveRowsComeBeforeAProfiles) {
  LoadHashed("t", 1, nullptr);
  const TableSpec spec = HashedSpec("t", 1);
  // Files as an earlier daemon would have left them: 600 rows that were held, and a profile of all
  // others, asked for more often than any.
  const HotnessFiles files(HotnessDirectory());
  PlantedCounts others;
  for (uint32_t row = 600; row < 4000; ++row) others[row] = 1000;
  for (size_t layer = 0; layer < 2; ++layer) {
    LayerProfile outline;
    outline.rows = spec.layers[layer].rows;
    ASSERT_TRUE(files
                    .Write(KeyOf(spec, layer), Kind::kLive, outline, 0,
                           [&](HotWriter& writer) {
                             absl::Status status;
                             for (uint32_t row = 0; row < 600 && status.ok(); ++row) {
                               status = writer.Add(RowId{row}, 1 + row % 3);
                             }
                             return status;
                           })
                    .ok());
  }
  ASSERT_TRUE(ImportProfile(WriteProfile(spec, others), spec, files).ok());
  StartDaemon();
  const uint64_t slots = Table()->layers[0]->SharedDram()->shape().Slots();
  ASSERT_LE(slots, 1200u);
  WaitUntil([&] { return warm_start_->Idle() && Held(0).size() == slots; });
  const std::set<uint32_t> held = Held(0);
  // All that had room in their sets, and none of them gave way.
  std::map<uint64_t, uint32_t> live_in_set;
  uint32_t expected = 0;
  const auto& shape = Table()->layers[0]->SharedDram()->shape();
  for (uint32_t row = 0; row < 600; ++row) {
    expected += ++live_in_set[shape.FirstSetOf(row)] <= dram::kWays;
  }
  EXPECT_EQ(std::distance(held.begin(), held.lower_bound(600)), expected);
  LookUp({held.begin(), held.end()});
}

TEST_F(WarmStartTest, ADamagedFileIsLeftOut) {
  LoadHashed("t", 1, nullptr);
  StartDaemon();
  LookUp({1, 2, 3});
  WaitUntil([&] { return warm_start_->Idle(); });
  StopDaemon();
  const TableSpec spec = HashedSpec("t", 1);
  const std::string path = HotnessFiles(HotnessDirectory()).PathOf(KeyOf(spec), Kind::kLive);
  ASSERT_TRUE(std::filesystem::exists(path));
  std::filesystem::resize_file(path, 40);
  ::testing::internal::CaptureStderr();
  StartDaemon();
  WaitUntil([&] { return Held(1).size() == 3; });  // the other layer's file is whole
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr(path));
  EXPECT_EQ(Placed(0), 0u);
  EXPECT_EQ(LookUp({1, 2, 3}).at(TierKind::kNvme), 3u);
}

TEST_F(WarmStartTest, AWrongProfileIsRefusedAndToldOf) {
  LoadHashed("t", 1, nullptr);
  const TableSpec spec = HashedSpec("t", 1);
  TableSpec other = spec;
  other.layers[0].multipliers[0] += 2;
  const std::string path = WriteProfile(other, {{5, 5}});
  StartDaemon({.directory = HotnessDirectory(), .profiles = {{"t", path}, {"u", "/nowhere"}}});
  const absl::Status status = warm_start_->TakeProfile(path, spec);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_THAT(std::string(status.message()), HasSubstr("fingerprint"));
  EXPECT_FALSE(FileExists(spec, Kind::kProfile));
  const auto note = [&] {
    return tables_->Snapshot()[0].layers[0].tiers[static_cast<size_t>(TierKind::kDram)].usage.note;
  };
  WaitUntil([&] { return note().find("profile not used: " + path) != std::string::npos; });
  EXPECT_EQ(warm_start_->TakeProfile("/nowhere", spec).code(), absl::StatusCode::kNotFound);
}

TEST_F(WarmStartTest, AConfiguredProfileIsTakenAtStart) {
  LoadHashed("t", 1, nullptr);
  const PlantedCounts counts = SomeCounts(11, 200);
  StartDaemon({.directory = HotnessDirectory(),
               .profiles = {{"t", WriteProfile(HashedSpec("t", 1), counts)}}});
  WaitForPlaced(200);
  ExpectAllFromDram(RowsOf(counts));
}

TEST_F(WarmStartTest, FilesGoWithTheLastVersionOfTheirAddressing) {
  LoadHashed("t", 1, nullptr);
  LoadHashed("t", 2, nullptr);
  const TableSpec spec = HashedSpec("t", 1);
  StartDaemon();
  ASSERT_TRUE(tables_->Activate("t", VersionId{2}).ok());
  ASSERT_TRUE(warm_start_->TakeProfile(WriteProfile(spec, {{3, 3}}), spec).ok());
  WaitForPlaced(1);
  ASSERT_TRUE(tables_->DropVersion("t", VersionId{1}).ok());
  EXPECT_TRUE(FileExists(spec, Kind::kProfile));
  ASSERT_TRUE(tables_->DropVersion("t", VersionId{2}).ok());
  EXPECT_FALSE(FileExists(spec, Kind::kProfile));
  StopDaemon();
  EXPECT_FALSE(FileExists(spec, Kind::kLive));
}

// What the drive cannot give is zeros in the batch: placed, it would be served as the row.
TEST_F(WarmStartTest, RowsOfADamagedPageAreNotPlaced) {
  LoadHashed("t", 1, nullptr);
  store_.reset();
  ASSERT_EQ(DamageSecondPages(), 2);
  StartDaemon();
  PlantedCounts counts;
  for (uint32_t row = 0; row < 60; ++row) counts[row] = 9;
  const TableSpec spec = HashedSpec("t", 1);
  ASSERT_TRUE(warm_start_->TakeProfile(WriteProfile(spec, counts), spec).ok());
  WaitForPlaced(45);
  WaitUntil([&] { return warm_start_->Idle(); });
  std::set<uint32_t> expected = RowsOf(counts);
  expected.erase(expected.lower_bound(15), expected.lower_bound(30));
  EXPECT_EQ(Held(0), expected);
  EXPECT_EQ(Held(1), expected);
  ExpectAllFromDram(expected);
}

// Switches, drops and stops while rows are being placed: nothing hangs, every row is right.
TEST_F(WarmStartTest, ChangesMeanwhileAreHarmless) {
  const uint64_t seed = Seed();
  std::mt19937_64 random(seed);
  LoadHashed("t", 1, nullptr);
  LoadHashed("t", 2, nullptr);
  const TableSpec spec = HashedSpec("t", 1);
  PlantedCounts counts;
  for (uint32_t row = 0; row < 4000; ++row) counts[row] = 1 + row % 100;
  const std::string path = WriteProfile(spec, counts);
  for (int round = 0; round < 4; ++round) {
    StartDaemon({.directory = HotnessDirectory(),
                 .save_interval = std::chrono::milliseconds(1 + random() % 5)});
    ASSERT_TRUE(warm_start_->TakeProfile(path, spec).ok());
    std::atomic<bool> stop{false};
    std::thread switcher([&] {
      for (uint64_t i = 0; !stop; ++i) {
        EXPECT_TRUE(tables_->Activate("t", VersionId{1 + i % 2}).ok());
      }
    });
    for (int i = 0; i < 20; ++i) {
      std::vector<uint32_t> ids;
      for (int j = 0; j < 300; ++j) ids.push_back(static_cast<uint32_t>(random() % 4000));
      LookUp(ids);
    }
    stop = true;
    switcher.join();
    StopDaemon();
  }
}

}  // namespace
}  // namespace engram
