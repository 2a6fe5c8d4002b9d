// What the daemon takes beside its DRAM tier, under load: at most 256 MiB, and a byte and a half a
// row. And that the tier itself keeps within its budget whenever it is asked.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/daemon_fixture.h"
#include "tests/sanitizer.h"

namespace engram::testing {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kBudget = 48 * kMiB;
// As many rows as an answer of this size holds are asked for at once.
constexpr uint64_t kMaxAnswer = 8 * kMiB;
constexpr size_t kRowsPerCall = kMaxAnswer / kRowBytes;
constexpr int kClients = 4;
constexpr int kCallsPerClient = 4;
// As many columns of so many rows make 10^6 rows of both layers.
constexpr uint64_t kColumnRows = 125'000;

// A line of /proc/PID/status, in bytes.
uint64_t StatusOf(pid_t pid, const std::string& key) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stoull(line.substr(key.size() + 1)) << 10;
  }
  ADD_FAILURE() << "no " << key << " of process " << pid;
  return 0;
}

class MemoryTest : public DaemonFixture {
 protected:
  std::vector<std::string> Flags(bool shared) const {
    std::vector<std::string> flags = {"--dram", "48MiB", "--max-answer", "8MiB"};
    if (!shared) flags.push_back("--shared-memory=false");
    return flags;
  }

  uint64_t Allowed() const { return 256 * kMiB + checkpoint_.TotalRows() * 3 / 2; }

  // Looks once: the tier against its budget, all else against what is allowed.
  void Look(bool shared) {
    const auto stats = admin_->Stats();
    ASSERT_TRUE(stats.ok()) << stats.status();
    uint64_t tier = 0;
    uint64_t held = 0;
    for (const v1::LayerStats& layer : stats->tables(0).layers()) {
      tier += layer.tiers().dram().capacity_bytes();
      held += layer.tiers().dram().bytes();
    }
    EXPECT_LE(tier, kBudget);
    EXPECT_LE(held, tier);
    // Shared, the tier is no anonymous memory.
    const uint64_t anonymous = StatusOf(daemon_->pid(), "RssAnon");
    const uint64_t other = shared ? anonymous : anonymous - std::min(anonymous, tier);
    most_ = std::max(most_, other);
    EXPECT_LE(other, Allowed()) << "of anonymous memory, " << tier << " bytes of DRAM tier";
    EXPECT_LE(StatusOf(daemon_->pid(), "RssShmem"), kBudget + kMiB);
    ++looks_;
  }

  // Big look-ups and prefetches of several clients at once, and Look all the while.
  void Load(bool shared, uint64_t seed) {
    std::atomic<int> busy{kClients};
    std::vector<std::thread> threads;
    for (int i = 0; i < kClients; ++i) {
      threads.emplace_back([&, i] {
        Ask(i, seed + static_cast<uint64_t>(i));
        --busy;
      });
    }
    while (busy > 0) {
      Look(shared);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    for (std::thread& thread : threads) thread.join();
    Look(shared);
  }

  void Ask(int client_number, uint64_t seed) {
    // Half of them over gRPC, so that answers pass through the daemon's memory.
    auto client = Client::Connect(
        {.target = daemon_->target(),
         .transport = client_number % 2 == 0 ? TransportKind::kGrpc : TransportKind::kAuto});
    ASSERT_TRUE(client.ok()) << client.status();
    std::mt19937_64 random(seed);
    const int layer = client_number % 2 == 0 ? 1 : 14;
    const uint64_t rows = checkpoint_.RowsOf(layer);
    std::vector<uint32_t> ids(kRowsPerCall);
    std::vector<std::byte> out(ids.size() * kRowBytes);
    for (int call = 0; call < kCallsPerClient; ++call) {
      for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % rows);
      if (call % 4 == 3) {
        std::promise<absl::Status> done;
        (*client)->Prefetch(
            {.table = "t", .layers = {{.layer = layer, .row_ids = ids}}},
            [&](absl::StatusOr<PrefetchAnswer> answer) { done.set_value(answer.status()); });
        const absl::Status status = done.get_future().get();
        EXPECT_TRUE(status.ok()) << status;
        continue;
      }
      LookupRequest request{.table = "t", .deadline = std::chrono::minutes(2)};
      request.layers = {{.layer = layer, .row_ids = ids}};
      request.layers[0].out = absl::MakeSpan(out);
      const auto answer = (*client)->Lookup(request);
      // The daemon may say that it has too much to do; it may not take more memory instead.
      if (!answer.ok()) {
        EXPECT_EQ(answer.status().code(), absl::StatusCode::kResourceExhausted) << answer.status();
        continue;
      }
      ++answers_;
      for (size_t i = 0; i < ids.size(); i += 997) {
        const std::vector<std::byte> expected = checkpoint_.ExpectedRow(layer, ids[i]);
        ASSERT_EQ(std::memcmp(expected.data(), &out[i * kRowBytes], kRowBytes), 0) << ids[i];
      }
    }
  }

  TestCheckpoint checkpoint_;
  std::atomic<int> answers_{0};
  uint64_t most_ = 0;
  int looks_ = 0;
};

TEST_F(MemoryTest, AllButTheTierIsBounded) {
  if (kAddressSanitizer) GTEST_SKIP() << "the sanitizer keeps what was freed, and much beside";
  const uint64_t seed = TestSeed();
  checkpoint_ = MakeCheckpoint("ckpt", kColumnRows, 1);
  ASSERT_GE(checkpoint_.TotalRows(), 1'000'000u);
  StartDaemon(Flags(true));
  ASSERT_TRUE(DaemonFixture::Load("t", checkpoint_.directory).ok());
  Load(true, seed);
  // Again, on what that daemon left, which is compared with NVMe meanwhile.
  StopDaemon();
  StartDaemon(Flags(true));
  Look(true);
  Load(true, seed + kClients);
  StopDaemon();
  StartDaemon(Flags(false));
  Load(false, seed + 2 * kClients);
  EXPECT_GE(answers_, 3 * kClients);
  std::cout << "at most " << (most_ >> 20) << " MiB of " << (Allowed() >> 20) << " allowed, in "
            << looks_ << " looks; " << answers_ << " answers of " << kRowsPerCall << " rows\n";
}

}  // namespace
}  // namespace engram::testing
