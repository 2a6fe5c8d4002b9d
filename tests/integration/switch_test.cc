// Live version switch and roll-back under load: not one failed answer, and none that mixes two
// versions.

#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>
#include <utility>

#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

constexpr char kTable[] = "t";

class SwitchTest : public DaemonFixture {
 protected:
  void SetUp() override {
    for (uint64_t version = 1; version <= 2; ++version) {
      checkpoints_[version] = MakeCheckpoint("v" + std::to_string(version), 1500, version);
    }
    // Every row tells its version.
    for (const int layer : checkpoints_[1].layers) {
      for (uint64_t row = 0; row < checkpoints_[1].RowsOf(layer); ++row) {
        ASSERT_NE(checkpoints_[1].ExpectedRow(layer, row), checkpoints_[2].ExpectedRow(layer, row));
      }
    }
  }

  void Activate(uint64_t version) {
    v1::ActivateRequest request;
    request.set_table(kTable);
    request.set_version(version);
    const absl::Status status = admin_->Activate(request);
    EXPECT_TRUE(status.ok()) << status;
  }

  void Drop(uint64_t version) {
    v1::DropVersionRequest request;
    request.set_table(kTable);
    request.set_version(version);
    const absl::Status status = admin_->DropVersion(request);
    EXPECT_TRUE(status.ok()) << status;
  }

  // Rows of both layers in one call, whatever is active, again and again until `stop_`.
  void LookUp(Client& client, uint64_t seed);
  // The same through a stream, several requests ahead.
  void Stream(uint64_t seed);
  // Switches, and now and then drops and reloads the version that is not active.
  void SwitchOften(int rounds);

  std::array<TestCheckpoint, 3> checkpoints_;  // by version
  std::atomic<bool> stop_{false};
  std::array<std::atomic<uint64_t>, 3> answers_{};  // by version
};

void SwitchTest::LookUp(Client& client, uint64_t seed) {
  std::mt19937_64 random(seed);
  while (!stop_ && !HasFailure()) {
    // Small calls are answered on gRPC's own thread, large ones on others.
    const size_t count = random() % 8 == 0 ? 5000 : 1 + random() % 100;
    std::vector<uint32_t> ids = RandomIds(random, checkpoints_[1], count);
    std::vector<std::byte> first(ids.size() * kRowBytes);
    std::vector<std::byte> second(first.size());
    const LookupRequest request{
        .table = kTable,
        .layers = {{1, ids, absl::MakeSpan(first), {}}, {14, ids, absl::MakeSpan(second), {}}}};
    std::promise<absl::StatusOr<LookupAnswer>> promise;
    const auto answer = [&]() -> absl::StatusOr<LookupAnswer> {
      if (random() % 2 == 0) return client.Lookup(request);
      client.LookupAsync(
          request, [&](absl::StatusOr<LookupAnswer> got) { promise.set_value(std::move(got)); });
      return promise.get_future().get();
    }();
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_TRUE(answer->version == 1 || answer->version == 2) << answer->version;
    ExpectRows(checkpoints_[answer->version], 1, ids, first);
    ExpectRows(checkpoints_[answer->version], 14, ids, second);
    ++answers_[answer->version];
    if (random() % 4 == 0) client.Prefetch({.table = kTable, .layers = {{1, ids}, {14, ids}}});
  }
}

void SwitchTest::Stream(uint64_t seed) {
  constexpr size_t kAhead = 4;
  std::mt19937_64 random(seed);
  const std::unique_ptr<Client> client = NewClient();
  auto stream = client->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  struct Step {
    std::vector<uint32_t> ids;
    std::array<std::vector<std::byte>, 2> rows;
  };
  std::array<Step, kAhead> steps;
  const auto send = [&](Step& step) {
    step.ids = RandomIds(random, checkpoints_[1], 1 + random() % 200);
    for (std::vector<std::byte>& rows : step.rows) rows.resize(step.ids.size() * kRowBytes);
    const absl::Status sent =
        (*stream)->Send({.table = kTable,
                         .layers = {{1, step.ids, absl::MakeSpan(step.rows[0]), {}},
                                    {14, step.ids, absl::MakeSpan(step.rows[1]), {}}}});
    ASSERT_TRUE(sent.ok()) << sent;
  };
  for (Step& step : steps) send(step);
  for (uint64_t sequence = 0; !stop_ && !HasFailure(); ++sequence) {
    Step& step = steps[sequence % kAhead];
    uint64_t version = 0;
    for (int i = 0; i < 2; ++i) {
      const auto event = (*stream)->Receive();
      ASSERT_TRUE(event.ok()) << event.status();
      ASSERT_TRUE(event->status.ok()) << event->status;
      ASSERT_EQ(event->sequence, sequence);
      ASSERT_TRUE(event->version == 1 || event->version == 2) << event->version;
      if (i == 1) {
        ASSERT_EQ(event->version, version) << "two versions in one answer";
      }
      version = event->version;
      ExpectRows(checkpoints_[version], event->layer.layer, step.ids, step.rows[i]);
    }
    ++answers_[version];
    send(step);
  }
}

void SwitchTest::SwitchOften(int rounds) {
  uint64_t active = 1;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    const uint64_t other = 3 - active;
    // The version that has just been left may have look-ups in flight still.
    if (round % 5 == 4) {
      Drop(other);
      const auto loaded = Load(kTable, checkpoints_[other].directory, other);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      EXPECT_FALSE(loaded->table().active());
    }
    // Each version gets to answer before the next switch.
    const uint64_t before = answers_[other];
    Activate(other);
    active = other;
    for (int wait = 0; wait < 20000 && answers_[other] == before && !HasFailure(); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_GT(answers_[other].load(), before) << "nobody is answered from version " << other;
    if (round % 3 == 0) Activate(3 - std::exchange(active, 3 - active));
  }
}

TEST_F(SwitchTest, NoAnswerFailsOrMixesVersions) {
  const uint64_t seed = TestSeed();
  StartDaemon({"--dram", "4MiB"});
  ASSERT_TRUE(Load(kTable, checkpoints_[1].directory).ok());
  ASSERT_TRUE(Load(kTable, checkpoints_[2].directory).ok());
  std::vector<std::thread> threads;
  // One has a client of its own, two share one: what one of them maps anew the other still uses.
  const std::unique_ptr<Client> own = NewClient();
  threads.emplace_back([this, seed, &own] { LookUp(*own, seed); });
  for (uint64_t i = 1; i < 3; ++i) {
    threads.emplace_back([this, seed, i] { LookUp(*client_, seed + i); });
  }
  threads.emplace_back([this, seed] { Stream(seed + 3); });
  SwitchOften(40);
  stop_ = true;
  for (std::thread& thread : threads) thread.join();
  std::cout << answers_[1] << " answers from version 1, " << answers_[2] << " from version 2"
            << std::endl;
}

}  // namespace
}  // namespace engram::testing
