// Rows that a daemon takes over in DRAM from the one before are compared with NVMe: the real
// daemon, its real memory, and that memory spoilt between two daemons.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/dram/layout.h"
#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

// Room for all rows, and for some.
constexpr const char* kResident = "64MiB";
constexpr const char* kCache = "5MiB";

class AdoptedTest : public DaemonFixture {
 protected:
  // Fills DRAM with rows of both layers; returns ids that it then holds.
  void Fill(const std::string& dram) {
    StartDaemon({"--dram", dram});
    checkpoint_ = MakeCheckpoint("ckpt", 3000, 1);
    ASSERT_TRUE(Load("t", checkpoint_.directory).ok());
    std::mt19937_64 random(TestSeed());
    ids_ = RandomIds(random, checkpoint_, 1000);
    AskUntilWarm();
  }

  void AskUntilWarm() {
    for (int i = 0; i < 1000; ++i) {
      const auto answer = LookupAndCompare(*client_, "t", checkpoint_, ids_);
      ASSERT_TRUE(answer.ok()) << answer.status();
      if (answer->layers[0].nvme_rows + answer->layers[1].nvme_rows == 0) return;
    }
    FAIL() << "DRAM does not take the rows";
  }

  v1::TierStats Dram(int layer) {
    const auto stats = admin_->Stats();
    EXPECT_TRUE(stats.ok()) << stats.status();
    if (!stats.ok()) return {};
    return stats->tables(0).layers(layer == 1 ? 0 : 1).tiers().dram();
  }

  // Polls; some minutes at most.
  template <typename Condition>
  bool Eventually(const Condition& condition) {
    for (int i = 0; i < 20000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  // Ends the daemon and begins the next one, `between` them.
  template <typename Change>
  void Restart(const std::string& dram, bool kill, const Change& between) {
    if (kill) daemon_->Kill();
    StopDaemon();
    between();
    StartDaemon({"--dram", dram});
  }

  // Turns one bit of this row of layer 14 where it lies in a segment file.
  void SpoilRow(uint32_t id) {
    const std::vector<std::byte> row = checkpoint_.ExpectedRow(14, id);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(ShmDirOf(dir_.path()))) {
      const std::string path = entry.path().string();
      if (!entry.path().filename().string().starts_with("segment-")) continue;
      std::ifstream in(path, std::ios::binary);
      std::string bytes(std::istreambuf_iterator<char>(in), {});
      const size_t at =
          bytes.find(std::string(reinterpret_cast<const char*>(row.data()), row.size()));
      if (at == std::string::npos) continue;
      std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
      out.seekp(static_cast<std::streamoff>(at + kRowBytes / 2));
      out.put(static_cast<char>(bytes[at + kRowBytes / 2] ^ 0x10));
      ASSERT_TRUE(out.good());
      return;
    }
    FAIL() << "row " << id << " lies in no segment";
  }

  // All rows of the table, in calls of some thousand.
  void ExpectEveryRowRight(Client& client) {
    const uint64_t rows = std::min(checkpoint_.rows[0], checkpoint_.rows[1]);
    for (uint64_t first = 0; first < rows; first += 4000) {
      std::vector<uint32_t> ids(std::min<uint64_t>(4000, rows - first));
      std::iota(ids.begin(), ids.end(), static_cast<uint32_t>(first));
      const auto answer = LookupAndCompare(client, "t", checkpoint_, ids);
      ASSERT_TRUE(answer.ok()) << answer.status();
    }
  }

  TestCheckpoint checkpoint_;
  std::vector<uint32_t> ids_;
};

TEST_F(AdoptedTest, EveryRowTakenOverIsComparedWithNvme) {
  for (const char* dram : {kResident, kCache}) {
    Fill(dram);
    for (const bool kill : {false, true}) {
      const uint64_t held[] = {Dram(1).rows(), Dram(14).rows()};
      EXPECT_GE(held[1], 900u);
      Restart(dram, kill, [] {});
      EXPECT_TRUE(Eventually([&] {
        return Dram(1).checked_rows() == held[0] && Dram(14).checked_rows() == held[1];
      })) << Dram(1).checked_rows()
          << " of " << held[0] << ", " << Dram(14).checked_rows() << " of " << held[1];
      EXPECT_EQ(Dram(1).mismatched_rows() + Dram(14).mismatched_rows(), 0u);
      const auto answer = LookupAndCompare(*client_, "t", checkpoint_, ids_);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->layers[0].dram_rows, ids_.size());
      EXPECT_EQ(answer->layers[1].dram_rows, ids_.size());
    }
    StopDaemon();
  }
}

TEST_F(AdoptedTest, OneWrongRowIsFoundAndItsTierBegunAnew) {
  for (const char* dram : {kResident, kCache}) {
    Fill(dram);
    for (const bool kill : {false, true}) {
      // The last one, so that the whole layer has to be walked.
      const uint32_t spoilt = *std::max_element(ids_.begin(), ids_.end());
      const uint64_t held_in_1 = Dram(1).rows();
      Restart(dram, kill, [&] { SpoilRow(spoilt); });
      // Reads along from before the check is done, most likely, and goes on over the renewal.
      auto along = Client::Connect({.target = daemon_->target(), .transport = TransportKind::kShm});
      ASSERT_TRUE(along.ok()) << along.status();
      std::vector<std::byte> rows(ids_.size() * kRowBytes);
      const auto read = (*along)->Lookup(
          {.table = "t", .version = 0, .layers = {{14, ids_, absl::MakeSpan(rows), {}}}});
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_TRUE(Eventually([&] {
        return absl::StrContains(daemon_->Log(), "layer 14 begins a DRAM tier anew");
      })) << daemon_->Log();
      EXPECT_TRUE(absl::StrContains(
          daemon_->Log(), absl::StrCat("table 't' version 1 layer 14: row ", spoilt,
                                       " in DRAM, taken over from an earlier daemon, differs")))
          << daemon_->Log();
      EXPECT_EQ(Dram(14).mismatched_rows(), 1u);
      ExpectEveryRowRight(**along);
      ExpectEveryRowRight(*client_);
      AskUntilWarm();
      ExpectEveryRowRight(**along);
      // The other layer's memory had nothing wrong, and is as it was.
      EXPECT_TRUE(Eventually([&] { return Dram(1).checked_rows() == held_in_1; }));
      EXPECT_EQ(Dram(1).mismatched_rows(), 0u);
      EXPECT_FALSE(absl::StrContains(daemon_->Log(), "layer 1 begins"));
    }
    StopDaemon();
  }
}

}  // namespace
}  // namespace engram::testing
