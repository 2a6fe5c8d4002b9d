// The head of the distribution in DRAM at once: profiles, restarts, switches, with the real daemon
// and the real engramctl.

#include <gmock/gmock.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <thread>

#include "storage/profile/row_profile.h"
#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kTable[] = "t";
constexpr uint32_t kHead = 2000;  // rows of each layer by name
constexpr char kDram[] = "5MiB";  // room for a quarter of the rows, and three times the head

class PlacementTest : public DaemonFixture {
 protected:
  void SetUp() override {
    for (uint64_t version = 1; version <= 2; ++version) {
      checkpoints_[version] = MakeCheckpoint("v" + std::to_string(version), 6000, version);
    }
    profile_ = CountTokens(checkpoints_[1], "hot");
    const auto profile = RowProfile::Read(profile_);
    ASSERT_TRUE(profile.ok()) << profile.status();
    for (const LayerProfile& layer : profile->layers) {
      ASSERT_EQ(layer.head.size(), kHead);
      for (const HotRow& row : layer.head) head_[Raw(layer.id)].push_back(Raw(row.id));
    }
  }

  // A profile over text in which few tokens are frequent; always the same.
  std::string CountTokens(const TestCheckpoint& checkpoint, const std::string& name) {
    const std::string tokens = dir_.path() + "/tokens";
    std::ofstream out(tokens, std::ios::binary);
    std::mt19937_64 random(7);
    for (int i = 0; i < 40000; ++i) {
      const uint32_t token = 100 + static_cast<uint32_t>(random() % 60 * (random() % 60) / 60);
      out.write(reinterpret_cast<const char*>(&token), sizeof token);
    }
    out.close();
    const std::string path = dir_.path() + "/" + name;
    const CommandResult made =
        RunTool("engramctl", {"profile", "--model-config", checkpoint.directory, "--compressed",
                              "--tokens", tokens, "--out", path, "--head", std::to_string(kHead)});
    EXPECT_EQ(made.exit_code, 0) << made.errors;
    return path;
  }

  CommandResult LoadByTool(uint64_t version, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"load",         kTable,
                                          "--checkpoint", checkpoints_[version].directory,
                                          "--server",     daemon_->target(),
                                          "--version",    std::to_string(version)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunTool("engramctl", arguments);
  }

  v1::TierStats Dram(int layer) {
    const auto stats = admin_->Stats();
    EXPECT_TRUE(stats.ok()) << stats.status();
    for (const v1::TableStats& table : stats->tables()) {
      for (const v1::LayerStats& one : table.layers()) {
        if (one.layer() == layer) return one.tiers().dram();
      }
    }
    return {};
  }
  void WaitFor(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ASSERT_TRUE(done()) << daemon_->Log();
  }
  // So many of each layer, and their counts put right.
  void WaitForPlaced(uint64_t rows) {
    WaitFor([&] {
      const std::string log = daemon_->Log();
      return log.find("filled DRAM of table 't' layer 1 ") != std::string::npos &&
             log.find("filled DRAM of table 't' layer 14 ") != std::string::npos &&
             Dram(1).placed_rows() >= rows && Dram(14).placed_rows() >= rows;
    });
  }
  void WaitForHeld(uint64_t rows) {
    WaitFor([&] { return Dram(1).rows() >= rows && Dram(14).rows() >= rows; });
  }

  // Each layer's head, byte by byte, and not one row of it from the drive.
  void ExpectHeadInDram(uint64_t version) {
    for (const auto& [layer, ids] : head_) {
      std::vector<std::byte> rows(ids.size() * kRowBytes);
      const auto answer =
          client_->Lookup({.table = kTable, .layers = {{layer, ids, absl::MakeSpan(rows), {}}}});
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->version, version);
      EXPECT_EQ(answer->layers[0].nvme_rows, 0u) << "layer " << layer;
      EXPECT_EQ(answer->layers[0].dram_rows, ids.size()) << "layer " << layer;
      ExpectRows(checkpoints_[version], layer, ids, rows);
    }
  }

  // The files of what is known of rows, by their ending.
  std::vector<std::string> HotnessFiles(const std::string& ending) const {
    std::vector<std::string> paths;
    std::error_code none;
    for (const auto& entry :
         std::filesystem::directory_iterator(dir_.path() + "/data/hotness", none)) {
      if (entry.path().extension() == ending) paths.push_back(entry.path().string());
    }
    return paths;
  }
  void ForgetMemory() { std::filesystem::remove_all(ShmDirOf(dir_.path())); }

  std::array<TestCheckpoint, 3> checkpoints_;  // by version
  std::string profile_;
  std::map<int, std::vector<uint32_t>> head_;  // by layer
};

TEST_F(PlacementTest, ALoadedProfileIsInDramAtOnceAndAfterAReboot) {
  StartDaemon({"--dram", kDram});
  const CommandResult loaded = LoadByTool(1, {"--profile", profile_});
  ASSERT_EQ(loaded.exit_code, 0) << loaded.errors;
  WaitForPlaced(kHead);
  ExpectHeadInDram(1);
  const CommandResult stats =
      RunTool("engramctl", {"stats", "--json", "--server", daemon_->target()});
  EXPECT_THAT(stats.output, HasSubstr("\"placed_rows\""));
  EXPECT_THAT(stats.output, HasSubstr(std::to_string(2 * kHead)));
  EXPECT_THAT(daemon_->Log(), HasSubstr("2000 rows placed in"));

  // Nothing but what the daemon itself has seen is left.
  StopDaemon();
  ForgetMemory();
  EXPECT_EQ(HotnessFiles(".live").size(), 2u);
  for (const std::string& path : HotnessFiles(".profile")) std::filesystem::remove(path);
  StartDaemon({"--dram", kDram});
  WaitForPlaced(kHead);
  ExpectHeadInDram(1);
  EXPECT_EQ(Dram(1).hits(), kHead);

  // With its memory there is nothing to place.
  StopDaemon();
  StartDaemon({"--dram", kDram});
  ExpectHeadInDram(1);
  EXPECT_EQ(Dram(1).placed_rows(), 0u);

  v1::DropTableRequest drop;
  drop.set_table(kTable);
  ASSERT_TRUE(admin_->DropTable(drop).ok());
  EXPECT_TRUE(HotnessFiles(".live").empty());
}

TEST_F(PlacementTest, WithoutWarmRestartTheProfileIsAllThatIsLeft) {
  StartDaemon({"--dram", kDram, "--warm-restart=false"});
  ASSERT_EQ(LoadByTool(1, {}).exit_code, 0);
  // Rows that no profile names.
  ASSERT_TRUE(LookupAndCompare(*client_, kTable, checkpoints_[1], {20000, 20001, 20002}).ok());
  ASSERT_EQ(LoadByTool(1, {"--profile", profile_}).exit_code, 0) << "it is loaded already";
  WaitForPlaced(kHead);
  StopDaemon();
  EXPECT_TRUE(HotnessFiles(".live").empty());
  EXPECT_EQ(HotnessFiles(".profile").size(), 2u);
  StartDaemon({"--dram", kDram, "--warm-restart=false"});
  WaitForPlaced(kHead);
  ExpectHeadInDram(1);
  EXPECT_EQ(Dram(1).rows(), kHead);
}

TEST_F(PlacementTest, AnotherVersionBeginsWithTheSameRows) {
  StartDaemon({"--dram", kDram});
  ASSERT_EQ(LoadByTool(1, {"--profile", profile_}).exit_code, 0);
  WaitForPlaced(kHead);
  ASSERT_EQ(LoadByTool(2, {}).exit_code, 0);
  ExpectHeadInDram(1);
  // What switches take along is what was held, not what a profile says.
  for (const std::string& path : HotnessFiles(".profile")) std::filesystem::remove(path);
  const CommandResult switched =
      RunTool("engramctl", {"activate", kTable, "2", "--server", daemon_->target()});
  ASSERT_EQ(switched.exit_code, 0) << switched.errors;
  WaitForHeld(kHead);
  ExpectHeadInDram(2);
}

TEST_F(PlacementTest, AConfiguredProfileIsPlacedAtStart) {
  StartDaemon({"--dram", "0"});
  ASSERT_EQ(LoadByTool(1, {}).exit_code, 0);
  StopDaemon();
  StartDaemon({"--dram", kDram, "--profiles", std::string(kTable) + "=" + profile_});
  WaitForPlaced(kHead);
  ExpectHeadInDram(1);
  StopDaemon();
  ForgetMemory();
  // One of another table is told of, and serving goes on.
  const std::string other = CountTokens(MakeCheckpoint("other", 7000, 3), "other_hot");
  StartDaemon({"--dram", kDram, "--profiles", std::string(kTable) + "=" + other});
  WaitFor([&] { return Dram(1).note().find("profile not used: " + other) != std::string::npos; });
  EXPECT_THAT(daemon_->Log(), HasSubstr("the profile of table 't' is not used: " + other));
  ASSERT_TRUE(LookupAndCompare(*client_, kTable, checkpoints_[1], {1, 2, 3}).ok());
}

TEST_F(PlacementTest, AWrongProfileLoadsNothing) {
  StartDaemon({"--dram", kDram});
  const auto expect = [&](const std::string& profile, const std::string& text) {
    const CommandResult result = LoadByTool(1, {"--profile", profile});
    EXPECT_EQ(result.exit_code, 1) << result.errors;
    EXPECT_THAT(result.errors, HasSubstr(profile));
    EXPECT_THAT(result.errors, HasSubstr(text));
    const auto list = admin_->List();
    ASSERT_TRUE(list.ok()) << list.status();
    EXPECT_EQ(list->tables_size() + list->unfinished_size(), 0);
  };
  expect(CountTokens(MakeCheckpoint("other", 7000, 3), "other_hot"),
         "the profile is of another table");
  expect(dir_.path() + "/none", "No such file");
  std::ofstream(dir_.path() + "/text") << "hot rows: all of them";
  expect(dir_.path() + "/text", "no profile of row frequencies");
  std::filesystem::copy_file(profile_, dir_.path() + "/cut");
  std::filesystem::resize_file(dir_.path() + "/cut", 1000);
  expect(dir_.path() + "/cut", "damaged or cut off");
  EXPECT_EQ(LoadByTool(1, {"--profile", profile_, "--repair"}).exit_code, 2);
  v1::LoadRequest request;
  request.set_table(kTable);
  request.set_checkpoint(checkpoints_[1].directory);
  request.set_profile(profile_);
  request.set_repair(true);
  EXPECT_EQ(admin_->Load(request, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  request.set_repair(false);
  request.set_profile("hot");
  EXPECT_EQ(admin_->Load(request, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  // The right one is taken after all that.
  EXPECT_EQ(LoadByTool(1, {"--profile", profile_}).exit_code, 0);
}

TEST_F(PlacementTest, ADamagedFileOfHotnessIsAWarning) {
  StartDaemon({"--dram", kDram});
  ASSERT_EQ(LoadByTool(1, {}).exit_code, 0);
  ASSERT_TRUE(LookupAndCompare(*client_, kTable, checkpoints_[1], head_.at(1)).ok());
  StopDaemon();
  ForgetMemory();
  const std::vector<std::string> files = HotnessFiles(".live");
  ASSERT_EQ(files.size(), 2u);
  for (const std::string& path : files) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(400);
    file.put('\x7f');
  }
  StartDaemon({"--dram", kDram});
  WaitFor([&] {
    const std::string log = daemon_->Log();
    return log.find(files[0]) != std::string::npos && log.find(files[1]) != std::string::npos;
  });
  EXPECT_THAT(daemon_->Log(), HasSubstr("is not filled from what was held before"));
  EXPECT_EQ(Dram(1).placed_rows(), 0u);
  const auto answer = LookupAndCompare(*client_, kTable, checkpoints_[1], head_.at(1));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->layers[0].nvme_rows, kHead);
}

}  // namespace
}  // namespace engram::testing
