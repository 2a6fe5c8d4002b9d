// Loading: damaged checkpoints are refused with nothing published; interrupted loads are taken up.

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

struct Damage {
  std::string name;
  std::function<void(const TestCheckpoint&)> apply;
  std::vector<std::string> said;  // what the error must name
};

class LoadTest : public DaemonFixture {
 protected:
  static std::vector<Damage> Damages();

  // Replaces `from` by a text of the same length in the header of a shard.
  static void EditShard(const TestCheckpoint& checkpoint, int layer, const std::string& from,
                        const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    std::fstream file(checkpoint.ShardPath(layer), std::ios::in | std::ios::out | std::ios::binary);
    std::string head(1000, '\0');
    file.read(head.data(), 1000);
    file.clear();
    const size_t at = head.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    file.seekp(static_cast<std::streamoff>(at));
    file << to;
  }
  static void EditText(const std::string& path, const std::string& from, const std::string& to) {
    std::ifstream in(path);
    std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    std::ofstream(path) << text.replace(at, from.size(), to);
  }
};

std::vector<Damage> LoadTest::Damages() {
  const auto edit = [](int layer, std::string from, std::string to) {
    return [=](const TestCheckpoint& c) { EditShard(c, layer, from, to); };
  };
  const auto resize = [](int64_t by) {
    return [=](const TestCheckpoint& c) {
      std::filesystem::resize_file(c.ShardPath(14),
                                   std::filesystem::file_size(c.ShardPath(14)) + by);
    };
  };
  return {
      {"missing_shard",
       [](const TestCheckpoint& c) { std::filesystem::remove(c.ShardPath(14)); },
       {"model-14.safetensors"}},
      {"wrong_dtype",
       edit(14, "F8_E4M3", "F8_E5M2"),
       {"model-14.safetensors", "embed.weight", "F8_E5M2"}},
      {"wrong_shape", edit(14, ",256]", ",255]"), {"model-14.safetensors", "embed.weight"}},
      {"truncated", resize(-1000), {"model-14.safetensors"}},
      {"header_longer_than_file",
       [](const TestCheckpoint& c) { std::filesystem::resize_file(c.ShardPath(14), 60); },
       {"model-14.safetensors"}},
      {"overlap", edit(14, "[37,", "[36,"), {"model-14.safetensors", "embed.weight"}},
      {"out_of_range", edit(14, "[0,37]", "[0,99]"), {"model-14.safetensors", "gate"}},
      {"row_count",
       [](const TestCheckpoint& c) {
         EditText(c.directory + "/config.json", std::to_string(c.rows[1]),
                  std::to_string(c.rows[1] + 1));
       },
       {"engram_num_embeddings"}},
      {"other_base_size",
       [](const TestCheckpoint& c) {
         EditText(c.directory + "/config.json", "\"engram_vocab_size\":500",
                  "\"engram_vocab_size\":600");
       },
       {"engram_num_embeddings"}},
      {"missing_key",
       [](const TestCheckpoint& c) {
         EditText(c.directory + "/config.json", "engram_n_heads", "engram_n_feet");
       },
       {"config.json", "engram_n_heads"}},
      {"no_config",
       [](const TestCheckpoint& c) { std::filesystem::remove(c.directory + "/config.json"); },
       {"config.json"}},
  };
}

TEST_F(LoadTest, EveryDamageIsNamedAndNothingIsPublished) {
  StartDaemon();
  for (const Damage& damage : Damages()) {
    SCOPED_TRACE(damage.name);
    const TestCheckpoint checkpoint = MakeCheckpoint(damage.name, 500, 1);
    damage.apply(checkpoint);
    const auto loaded = Load("t", checkpoint.directory);
    ASSERT_FALSE(loaded.ok());
    EXPECT_THAT(loaded.status().code(),
                AnyOf(absl::StatusCode::kNotFound, absl::StatusCode::kInvalidArgument,
                      absl::StatusCode::kDataLoss));
    for (const std::string& word : damage.said) {
      EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(word));
    }
    const auto list = admin_->List();
    ASSERT_TRUE(list.ok());
    EXPECT_EQ(list->tables_size(), 0);
  }
  EXPECT_EQ(Load("t", dir_.path() + "/nowhere").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Load("t", "relative").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Load("../t", dir_.path()).status().code(), absl::StatusCode::kInvalidArgument);
  const TestCheckpoint good = MakeCheckpoint("good", 500, 1);
  EXPECT_TRUE(Load("t", good.directory).ok());
}

TEST_F(LoadTest, KilledAtAnyMomentLoadsAgain) {
  const uint64_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 60000, 1);  // 127 MB, several chunks
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    StartDaemon();
    std::thread loader([&] { (void)Load("t", checkpoint.directory); });
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 700));
    daemon_->Kill();
    loader.join();
    StopDaemon();

    StartDaemon();
    auto list = admin_->List();
    ASSERT_TRUE(list.ok());
    const bool published = list->tables_size() == 1;
    EXPECT_LE(list->tables_size() + list->unfinished_size(), 1);
    const auto early = LookupAndCompare(*client_, "t", checkpoint, {0, 7});
    EXPECT_EQ(early.ok(), published) << early.status();
    auto again = Load("t", checkpoint.directory);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->already_loaded(), published);
    EXPECT_TRUE(
        LookupAndCompare(*client_, "t", checkpoint, RandomIds(random, checkpoint, 3000)).ok());
    v1::VerifyRequest verify;
    verify.set_table("t");
    verify.set_checkpoint(checkpoint.directory);
    auto verified = admin_->Verify(verify, nullptr);
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ(verified->bad_rows(), 0u);
    EXPECT_EQ(verified->rows_done(), checkpoint.TotalRows());
    v1::DropTableRequest drop;
    drop.set_table("t");
    ASSERT_TRUE(admin_->DropTable(drop).ok());
    StopDaemon();
  }
}

TEST_F(LoadTest, CancelledLoadIsTakenUpWhereItStopped) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 120000, 1);  // 254 MB, 16 chunks
  StartDaemon({"--load-threads", "1"});
  v1::LoadRequest request;
  request.set_table("t");
  request.set_checkpoint(checkpoint.directory);
  std::atomic<bool> cancel{false};
  const auto stopped = admin_->Load(
      request,
      [&](const v1::LoadProgress& progress) {
        if (progress.rows_done() > checkpoint.TotalRows() / 3) cancel = true;
      },
      &cancel);
  if (stopped.ok()) GTEST_SKIP() << "the load was done before it could be cancelled";
  EXPECT_EQ(stopped.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client_->Describe("t").status().code(), absl::StatusCode::kNotFound);
  const auto list = admin_->List();
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->tables_size(), 0);
  ASSERT_EQ(list->unfinished_size(), 1);
  EXPECT_EQ(list->unfinished(0).name(), "t");
  EXPECT_EQ(list->unfinished(0).state(), v1::TABLE_STATE_LOADING);
  // The daemon may still be winding the first load up; it says so.
  absl::StatusOr<v1::LoadProgress> again;
  for (int i = 0; i < 200; ++i) {
    again = admin_->Load(request, nullptr);
    if (again.status().code() != absl::StatusCode::kFailedPrecondition) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ASSERT_TRUE(again.ok()) << again.status();
  // Unless the first load was done before it heard that nobody waits for it any more.
  EXPECT_TRUE(again->rows_resumed() > 0 || again->already_loaded());
  EXPECT_EQ(again->rows_done(), checkpoint.TotalRows());
  std::mt19937_64 random(TestSeed());
  EXPECT_TRUE(
      LookupAndCompare(*client_, "t", checkpoint, RandomIds(random, checkpoint, 5000)).ok());
}

TEST_F(LoadTest, TerminationDuringALoadExitsCleanlyAndTheLoadResumes) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 120000, 1);
  StartDaemon({"--load-threads", "1"});
  std::atomic<bool> started{false};
  absl::Status status;
  std::thread loader([&] {
    v1::LoadRequest request;
    request.set_table("t");
    request.set_checkpoint(checkpoint.directory);
    status = admin_->Load(request, [&](const v1::LoadProgress&) { started = true; }).status();
    started = true;
  });
  while (!started) std::this_thread::yield();
  EXPECT_EQ(daemon_->Terminate(), 0);
  loader.join();
  StopDaemon();
  StartDaemon();
  auto again = Load("t", checkpoint.directory);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->already_loaded(), status.ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "t", checkpoint, {0, 1, 99999}).ok());
}

TEST_F(LoadTest, VerifyFindsWhatTheCheckpointHasDifferently) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  ASSERT_TRUE(LookupAndCompare(*client_, "t", checkpoint, {0, 1, 2}).ok());
  {
    std::fstream file(checkpoint.ShardPath(1), std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header = 0;
    file.read(reinterpret_cast<char*>(&header), sizeof(header));
    const auto at = static_cast<std::streamoff>(8 + header + 37 + 100 * kHeadDim + 9);
    file.seekg(at);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
  }
  v1::VerifyRequest verify;
  verify.set_table("t");
  auto stored = admin_->Verify(verify, nullptr);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->bad_rows(), 0u);
  verify.set_checkpoint(checkpoint.directory);
  auto compared = admin_->Verify(verify, nullptr);
  ASSERT_TRUE(compared.ok()) << compared.status();
  EXPECT_EQ(compared->bad_rows(), 1u);
  ASSERT_EQ(compared->problems_size(), 1);
  EXPECT_THAT(compared->problems(0), HasSubstr("layer 1 row 100"));
  EXPECT_THAT(compared->problems(0), HasSubstr("byte 9"));
}

}  // namespace
}  // namespace engram::testing
