// Serving: what a worker sees of a loaded table.

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>

#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using ::testing::HasSubstr;

class ServeTest : public DaemonFixture {};

TEST_F(ServeTest, LoadRestartLookUpDrop) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon();
  auto loaded = Load("deepseek", checkpoint.directory);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->rows_done(), checkpoint.TotalRows());
  EXPECT_TRUE(loaded->table().active());

  // Every row of both layers, from the drive.
  std::vector<uint32_t> ids(std::min(checkpoint.rows[0], checkpoint.rows[1]));
  for (uint32_t i = 0; i < ids.size(); ++i) ids[i] = i;
  auto cold = LookupAndCompare(*client_, "deepseek", checkpoint, ids);
  ASSERT_TRUE(cold.ok()) << cold.status();
  EXPECT_GT(cold->layers[0].nvme_rows, 0u);

  StopDaemon();
  StartDaemon();
  std::mt19937_64 random(TestSeed());
  std::shuffle(ids.begin(), ids.end(), random);
  ids.push_back(kDeadPosition);
  ids.push_back(ids[0]);
  auto again = LookupAndCompare(*client_, "deepseek", checkpoint, ids);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_EQ(again->layers.size(), 2u);
  EXPECT_EQ(again->layers[0].layer, 1);
  EXPECT_EQ(again->layers[1].layer, 14);
  EXPECT_EQ(again->layers[0].nvme_rows + again->layers[0].dram_rows, ids.size() - 1);

  v1::DropTableRequest drop;
  drop.set_table("deepseek");
  ASSERT_TRUE(admin_->DropTable(drop).ok());
  EXPECT_EQ(client_->Describe("deepseek").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LookupAndCompare(*client_, "deepseek", checkpoint, {1}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(daemon_->Terminate(), 0);
}

TEST_F(ServeTest, DescribesTheTableForTheHandshake) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
  auto description = client_->Describe("deepseek");
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->family, "deepseek-v4.1");
  EXPECT_EQ(description->version, 1u);
  EXPECT_TRUE(description->active);
  ASSERT_EQ(description->layers.size(), 2u);
  EXPECT_EQ(description->layers[1].layer, 14);
  EXPECT_EQ(description->layers[1].rows, checkpoint.rows[1]);
  EXPECT_EQ(description->layers[1].row_bytes, kRowBytes);
  const std::vector<uint64_t> primes = PrimesFrom(500, 8);
  ASSERT_EQ(description->layers[1].columns.size(), 4u);
  EXPECT_EQ(description->layers[1].columns[0].rows, primes[4]);
  EXPECT_FALSE(description->table_digest.empty());

  const std::vector<uint32_t> ids = {1};
  std::vector<std::byte> rows(kRowBytes);
  LookupRequest request{.table = "deepseek", .layers = {{1, ids, absl::MakeSpan(rows), {}}}};
  request.expect_table_digest = description->table_digest;
  EXPECT_TRUE(client_->Lookup(request).ok());
  request.expect_table_digest = "0123456789abcdef0123456789abcdef";
  EXPECT_EQ(client_->Lookup(request).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ServeTest, PrefetchMakesRowsWarm) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon();
  ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 48);
  std::promise<absl::StatusOr<PrefetchAnswer>> promise;
  client_->Prefetch({.table = "deepseek", .layers = {{1, ids}, {14, ids}}},
                    [&](absl::StatusOr<PrefetchAnswer> answer) { promise.set_value(answer); });
  const auto answer = promise.get_future().get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->accepted, 96u);
  // The answer comes before the rows do: wait until the daemon has counted them all.
  const size_t distinct = std::set<uint32_t>(ids.begin(), ids.end()).size();
  for (int i = 0; i < 2000; ++i) {
    auto stats = admin_->Stats();
    ASSERT_TRUE(stats.ok());
    if (stats->tables(0).prefetched_rows() >= 2 * distinct) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  auto lookup = LookupAndCompare(*client_, "deepseek", checkpoint, ids);
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_EQ(lookup->layers[0].dram_rows, 48u);
  EXPECT_EQ(lookup->layers[1].dram_rows, 48u);
  EXPECT_EQ(lookup->layers[0].nvme_rows, 0u);
}

TEST_F(ServeTest, TwoTablesAndTwoVersionsKeepApart) {
  const TestCheckpoint a1 = MakeCheckpoint("a1", 700, 1);
  const TestCheckpoint a2 = MakeCheckpoint("a2", 700, 2);
  const TestCheckpoint b = MakeCheckpoint("b", 900, 3);
  StartDaemon();
  ASSERT_TRUE(Load("a", a1.directory).ok());
  ASSERT_TRUE(Load("b", b.directory).ok());
  auto second = Load("a", a2.directory);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->table().version(), 2u);
  EXPECT_FALSE(second->table().active());
  auto repeated = Load("a", a2.directory);
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_TRUE(repeated->already_loaded());
  EXPECT_EQ(Load("a", a2.directory, 1).status().code(), absl::StatusCode::kAlreadyExists);

  const std::vector<uint32_t> ids = {0, 5, 2799, 5};
  EXPECT_TRUE(LookupAndCompare(*client_, "a", a1, ids).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "a", a2, ids, 2).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "b", b, ids).ok());
  v1::ActivateRequest activate;
  activate.set_table("a");
  activate.set_version(2);
  ASSERT_TRUE(admin_->Activate(activate).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "a", a2, ids).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "a", a1, ids, 1).ok());
  activate.set_version(1);
  ASSERT_TRUE(admin_->Activate(activate).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "a", a1, ids).ok());
  v1::DropVersionRequest drop;
  drop.set_table("a");
  // Without a version nothing goes, least of all everything.
  EXPECT_EQ(admin_->DropVersion(drop).code(), absl::StatusCode::kInvalidArgument);
  drop.set_version(1);
  ASSERT_TRUE(admin_->DropVersion(drop).ok());
  EXPECT_EQ(LookupAndCompare(*client_, "a", a1, ids).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(LookupAndCompare(*client_, "a", a2, ids, 2).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "b", b, ids).ok());
}

TEST_F(ServeTest, ManyClientsAtOnceWithASmallCache) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon({"--dram", "1MiB"});
  ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
  const uint64_t seed = TestSeed();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> dram{0};
  std::atomic<uint64_t> nvme{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      const std::unique_ptr<Client> client = NewClient();
      for (int call = 0; call < 40; ++call) {
        std::vector<uint32_t> ids = RandomIds(random, checkpoint, 1 + random() % 300);
        for (uint32_t& id : ids) {
          if (random() % 2 == 0) id %= 50;  // some are hot
        }
        auto answer = LookupAndCompare(*client, "deepseek", checkpoint, ids);
        ASSERT_TRUE(answer.ok()) << answer.status();
        for (const LayerAnswer& layer : answer->layers) {
          dram += layer.dram_rows;
          nvme += layer.nvme_rows;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(dram, 0u);
  EXPECT_GT(nvme, 0u);
  auto stats = admin_->Stats();
  ASSERT_TRUE(stats.ok());
  uint64_t hits = 0;
  for (const v1::LayerStats& layer : stats->tables(0).layers()) {
    hits += layer.tiers().dram().hits() + layer.tiers().nvme().hits();
    EXPECT_LE(layer.tiers().dram().capacity_bytes(), uint64_t{1} << 20);
  }
  EXPECT_EQ(hits, dram + nvme);
  EXPECT_EQ(stats->tables(0).lookups(), 8u * 40u);
}

TEST_F(ServeTest, StreamAnswersLayerByLayerAndOutlivesErrors) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon();
  ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
  auto stream = client_->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  std::mt19937_64 random(TestSeed());
  constexpr int kRequests = 30;
  std::vector<std::vector<uint32_t>> ids(kRequests);
  std::vector<std::vector<std::byte>> first(kRequests);
  std::vector<std::vector<std::byte>> second(kRequests);
  std::thread sender([&] {
    for (int i = 0; i < kRequests; ++i) {
      ids[i] = RandomIds(random, checkpoint, i % 7 == 0 ? 5000 : 48);
      if (i == 11) ids[i][3] = 4000000000u;
      first[i].resize(ids[i].size() * kRowBytes);
      second[i].resize(ids[i].size() * kRowBytes);
      ASSERT_TRUE((*stream)
                      ->Send({.table = "deepseek",
                              .layers = {{1, ids[i], absl::MakeSpan(first[i]), {}},
                                         {14, ids[i], absl::MakeSpan(second[i]), {}}}})
                      .ok());
    }
    (*stream)->CloseSend();
  });
  uint64_t next = 0;
  int layers_seen = 0;
  while (true) {
    auto event = (*stream)->Receive();
    if (!event.ok()) {
      EXPECT_EQ(event.status().code(), absl::StatusCode::kOutOfRange) << event.status();
      break;
    }
    ASSERT_EQ(event->sequence, next);
    if (next == 11) {
      EXPECT_EQ(event->status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(event->status.message()), HasSubstr("4000000000"));
      EXPECT_TRUE(event->last);
    } else {
      ASSERT_TRUE(event->status.ok()) << event->status;
      EXPECT_EQ(event->layer.layer, layers_seen == 0 ? 1 : 14);
      ExpectRows(checkpoint, event->layer.layer, ids[next],
                 layers_seen == 0 ? first[next] : second[next]);
      ++layers_seen;
      EXPECT_EQ(event->last, layers_seen == 2);
    }
    if (event->last) {
      ++next;
      layers_seen = 0;
    }
  }
  sender.join();
  EXPECT_EQ(next, static_cast<uint64_t>(kRequests));
}

TEST_F(ServeTest, ClientFindsARestartedDaemonByItself) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
  const std::unique_ptr<Client> client = NewClient();
  ASSERT_TRUE(LookupAndCompare(*client, "deepseek", checkpoint, {1, 2}).ok());
  daemon_->Kill();
  StopDaemon();
  StartDaemon();
  auto answer = LookupAndCompare(*client, "deepseek", checkpoint, {3, 4});
  EXPECT_TRUE(answer.ok()) << answer.status();
}

TEST_F(ServeTest, TcpServesRowsButNoAdminCallsUnlessAllowed) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  for (const bool allowed : {false, true}) {
    StartDaemon(allowed ? std::vector<std::string>{"--also-listen", "127.0.0.1:0", "--admin-tcp"}
                        : std::vector<std::string>{"--also-listen", "127.0.0.1:0"});
    ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
    const std::string tcp =
        "127.0.0.1:" + std::to_string(daemon_->PortFromLog("grpc on 127.0.0.1:"));
    auto client = Client::Connect({.target = tcp});
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_TRUE(LookupAndCompare(**client, "deepseek", checkpoint, {7}).ok());
    auto admin = AdminClient::Connect(tcp);
    ASSERT_TRUE(admin.ok()) << admin.status();
    EXPECT_EQ((*admin)->List().status().code(),
              allowed ? absl::StatusCode::kOk : absl::StatusCode::kPermissionDenied);
    StopDaemon();
  }
}

TEST_F(ServeTest, ErrorsNameTheValueAndTheDaemonServesOn) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("deepseek", checkpoint.directory).ok());
  const auto end = static_cast<uint32_t>(checkpoint.RowsOf(1));
  const std::vector<uint32_t> ids = {0, end};
  std::vector<std::byte> rows(2 * kRowBytes);
  for (const RowErrorPolicy policy : {RowErrorPolicy::kFail, RowErrorPolicy::kZero}) {
    const auto past = client_->Lookup({.table = "deepseek",
                                       .layers = {{1, ids, absl::MakeSpan(rows), {}}},
                                       .on_row_error = policy});
    EXPECT_EQ(past.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(past.status().message()), HasSubstr(std::to_string(end)));
  }
  EXPECT_EQ(LookupAndCompare(*client_, "nobody", checkpoint, {1}).status().code(),
            absl::StatusCode::kNotFound);
  std::vector<std::byte> small(kRowBytes);
  EXPECT_EQ(client_
                ->Lookup({.table = "deepseek",
                          .layers = {{1, std::vector<uint32_t>{0, 1}, absl::MakeSpan(small), {}}}})
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(LookupAndCompare(*client_, "deepseek", checkpoint, {end - 1 - 100}).ok());
  EXPECT_TRUE(daemon_->Alive());
}

TEST_F(ServeTest, TakesAllOpenFilesThatTheSystemAllows) {
  rlimit own{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &own), 0);
  const rlimit low{.rlim_cur = 200, .rlim_max = own.rlim_max};
  ASSERT_GT(own.rlim_max, low.rlim_cur);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  StartDaemon();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &own), 0);
  rlimit daemons{};
  ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_NOFILE, nullptr, &daemons), 0);
  EXPECT_EQ(daemons.rlim_cur, own.rlim_max);
}

TEST_F(ServeTest, SecondDaemonOnTheSameDirectoryOrSocketIsRefused) {
  StartDaemon();
  const CommandResult same_data = RunTool(
      "engramd", {"--data-dir", dir_.path() + "/data", "--listen", "unix:" + dir_.path() + "/s2",
                  "--http", "", "--shm-dir", ShmDirOf(dir_.path())});
  EXPECT_EQ(same_data.exit_code, 1);
  EXPECT_THAT(same_data.errors, HasSubstr(dir_.path() + "/data"));
  const CommandResult same_socket =
      RunTool("engramd", {"--data-dir", dir_.path() + "/data2", "--listen", daemon_->target(),
                          "--http", "", "--shm-dir", ShmDirOf(dir_.path())});
  EXPECT_EQ(same_socket.exit_code, 1);
  EXPECT_THAT(same_socket.errors, HasSubstr(daemon_->target()));
  EXPECT_TRUE(admin_->List().ok());
}

}  // namespace
}  // namespace engram::testing
