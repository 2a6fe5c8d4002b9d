// Clients that read DRAM themselves: the real daemon, its real memory, other processes.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "storage/dram/access_ring.h"
#include "storage/dram/layout.h"
#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

class ShmTest : public DaemonFixture {
 protected:
  class StreamsInStep;

  std::unique_ptr<Client> ShmClient() {
    auto client = Client::Connect({.target = daemon_->target(), .transport = TransportKind::kShm});
    if (!client.ok()) throw std::runtime_error(client.status().ToString());
    EXPECT_EQ((*client)->transport(), TransportKind::kShm);
    return *std::move(client);
  }
  std::unique_ptr<Client> GrpcClient() {
    auto client = Client::Connect({.target = daemon_->target(), .transport = TransportKind::kGrpc});
    if (!client.ok()) throw std::runtime_error(client.status().ToString());
    return *std::move(client);
  }

  // Looks the rows up until DRAM has served all of them.
  void Warm(const TestCheckpoint& checkpoint, const std::vector<uint32_t>& ids) {
    for (int i = 0; i < 1000; ++i) {
      auto answer = LookupAndCompare(*client_, "t", checkpoint, ids);
      ASSERT_TRUE(answer.ok()) << answer.status();
      if (answer->layers[0].nvme_rows + answer->layers[1].nvme_rows == 0) return;
    }
    FAIL() << "DRAM does not take the rows";
  }

  std::vector<std::string> SegmentFiles() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(ShmDirOf(dir_.path()))) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("segment-")) files.push_back(entry.path().string());
    }
    return files;
  }

  void Activate(uint64_t version) {
    v1::ActivateRequest request;
    request.set_table("t");
    request.set_version(version);
    const absl::Status status = admin_->Activate(request);
    ASSERT_TRUE(status.ok()) << status;
  }
};

TEST_F(ShmTest, RowsInDramNeedNoDaemon) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  std::vector<uint32_t> ids = RandomIds(random, checkpoint, 500);
  ids[7] = kDeadPosition;
  Warm(checkpoint, ids);
  const std::unique_ptr<Client> client = ShmClient();
  ASSERT_TRUE(LookupAndCompare(*client, "t", checkpoint, ids).ok());  // maps the tier
  ASSERT_EQ(::kill(daemon_->pid(), SIGSTOP), 0);
  const auto answer = LookupAndCompare(*client, "t", checkpoint, ids);
  ASSERT_EQ(::kill(daemon_->pid(), SIGCONT), 0);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->layers[0].dram_rows, 499u);
  EXPECT_EQ(answer->layers[1].dram_rows, 499u);
  // And the daemon hears of it.
  auto stats = admin_->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_GE(stats->tables(0).layers(0).tiers().dram().hits(), 2u * 499u);
}

TEST_F(ShmTest, TheTransportIsChosenByItselfOrByForce) {
  StartDaemon({"--also-listen", "127.0.0.1:0"});
  const std::string tcp = "127.0.0.1:" + std::to_string(daemon_->PortFromLog("grpc on 127.0.0.1:"));
  const auto kind = [](const std::string& target, TransportKind wanted) {
    auto client = Client::Connect({.target = target, .transport = wanted});
    return client.ok() ? absl::StatusOr<TransportKind>((*client)->transport()) : client.status();
  };
  EXPECT_EQ(*kind(daemon_->target(), TransportKind::kAuto), TransportKind::kShm);
  EXPECT_EQ(*kind(daemon_->target(), TransportKind::kGrpc), TransportKind::kGrpc);
  EXPECT_EQ(*kind(tcp, TransportKind::kAuto), TransportKind::kGrpc);
  EXPECT_EQ(kind(tcp, TransportKind::kShm).status().code(), absl::StatusCode::kFailedPrecondition);
  for (const auto& [text, expected] :
       {std::pair{"grpc", TransportKind::kGrpc}, std::pair{"shm", TransportKind::kShm},
        std::pair{"auto", TransportKind::kShm}, std::pair{"", TransportKind::kShm}}) {
    ::setenv("ENGRAM_TRANSPORT", text, 1);
    EXPECT_EQ(*kind(daemon_->target(), TransportKind::kAuto), expected) << text;
  }
  ::setenv("ENGRAM_TRANSPORT", "rdma", 1);
  EXPECT_EQ(kind(daemon_->target(), TransportKind::kAuto).status().message(),
            "$ENGRAM_TRANSPORT is \"rdma\"; it may be auto, grpc or shm");
  ::unsetenv("ENGRAM_TRANSPORT");
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--shared-memory=false"}, {"--dram", "0"}}) {
    StopDaemon();
    StartDaemon(flags);
    EXPECT_EQ(*kind(daemon_->target(), TransportKind::kAuto), TransportKind::kGrpc);
    const absl::Status refused = kind(daemon_->target(), TransportKind::kShm).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(refused.message().find("shares no memory"), std::string::npos) << refused;
  }
  // Once there is a tier, it is shared.
  const CommandResult raised =
      RunTool("engramctl", {"budget", "--dram", "4MiB", "--server", daemon_->target()});
  ASSERT_EQ(raised.exit_code, 0) << raised.errors;
  EXPECT_EQ(*kind(daemon_->target(), TransportKind::kAuto), TransportKind::kShm);
}

// The two transports are asked the same, good and bad: bytes, tiers and errors are the same.
TEST_F(ShmTest, AnswersAsGrpcDoes) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon({"--dram", "1MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::unique_ptr<Client> shm = ShmClient();
  const std::unique_ptr<Client> grpc = GrpcClient();
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 300; ++round) {
    std::vector<uint32_t> ids = RandomIds(random, checkpoint, random() % 200);
    for (uint32_t& id : ids) {
      if (random() % 40 == 0) id = kDeadPosition;
      if (random() % 4000 == 0) id = 0xFFFFFF00u;
    }
    std::vector<std::byte> a(ids.size() * kRowBytes);
    std::vector<std::byte> b(a.size());
    std::vector<uint8_t> tiers_a(ids.size());
    std::vector<uint8_t> tiers_b(ids.size());
    LookupRequest request{.table = random() % 20 == 0 ? "u" : "t"};
    request.version = random() % 20 == 0 ? 7 : 0;
    request.layers = {{.layer = random() % 20 == 0 ? 2 : 14, .row_ids = ids}};
    request.on_row_error = random() % 2 == 0 ? RowErrorPolicy::kZero : RowErrorPolicy::kFail;
    if (random() % 20 == 0) request.expect_table_digest = "another";
    if (random() % 20 == 0) request.layers.push_back(request.layers[0]);
    const size_t short_by = random() % 20 == 0 ? 1 : 0;
    const auto ask = [&](Client& client, std::vector<std::byte>& rows,
                         std::vector<uint8_t>& tiers) {
      for (LayerRequest& layer : request.layers) {
        layer.out = absl::MakeSpan(rows).first(rows.size() - std::min(short_by, rows.size()));
        layer.tiers = absl::MakeSpan(tiers);
      }
      return client.Lookup(request);
    };
    const auto from_shm = ask(*shm, a, tiers_a);
    const auto from_grpc = ask(*grpc, b, tiers_b);
    ASSERT_EQ(from_shm.status(), from_grpc.status());
    if (!from_shm.ok()) continue;
    EXPECT_EQ(from_shm->version, from_grpc->version);
    ASSERT_EQ(a, b);
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(tiers_a[i] == 255, ids[i] == kDeadPosition);
      EXPECT_EQ(tiers_b[i] == 255, ids[i] == kDeadPosition);
    }
    const LayerAnswer& layer = from_shm->layers[0];
    EXPECT_EQ(layer.dram_rows, std::count(tiers_a.begin(), tiers_a.end(), 1));
    EXPECT_EQ(layer.nvme_rows, std::count(tiers_a.begin(), tiers_a.end(), 2));
    ExpectRows(checkpoint, 14, ids, a);
  }
}

TEST_F(ShmTest, TokensAndCallbacks) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::unique_ptr<Client> shm = ShmClient();
  const std::unique_ptr<Client> grpc = GrpcClient();
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 50; ++round) {
    std::vector<int32_t> tokens(1 + random() % 60);
    for (int32_t& token : tokens) token = random() % 20 == 0 ? -1 : static_cast<int>(random() % 90);
    const std::vector<uint32_t> lengths = {static_cast<uint32_t>(tokens.size())};
    const std::vector<uint32_t> lookbacks = {static_cast<uint32_t>(random() % tokens.size())};
    const size_t rows = (tokens.size() - lookbacks[0]) * 4;
    std::vector<std::byte> a(rows * kRowBytes);
    std::vector<std::byte> b(rows * kRowBytes);
    LookupRequest request{.table = "t"};
    request.tokens = TokenBatch{
        .token_ids = tokens, .lengths = lengths, .lookbacks = lookbacks, .compressed = true};
    request.layers = {{.layer = 14, .out = absl::MakeSpan(a)}};
    std::promise<absl::StatusOr<LookupAnswer>> promise;
    shm->LookupAsync(request,
                     [&](absl::StatusOr<LookupAnswer> answer) { promise.set_value(answer); });
    const auto from_shm = promise.get_future().get();
    request.layers[0].out = absl::MakeSpan(b);
    const auto from_grpc = grpc->Lookup(request);
    ASSERT_TRUE(from_shm.ok()) << from_shm.status();
    ASSERT_TRUE(from_grpc.ok()) << from_grpc.status();
    ASSERT_EQ(a, b);
  }
}

// A stream over shared memory and one over gRPC, which get the same requests.
class ShmTest::StreamsInStep {
 public:
  static constexpr uint64_t kAhead = 6;

  StreamsInStep(std::array<std::unique_ptr<LookupStream>, 2> streams,
                const TestCheckpoint& checkpoint)
      : streams_(std::move(streams)), checkpoint_(checkpoint) {}

  // Rows that DRAM holds, that it does not, and some of each; bad ones between.
  void Send(uint64_t sequence, std::mt19937_64& random) {
    Step& step = steps_[sequence % kAhead];
    const uint64_t among = random() % 3 == 0 ? ~0ull : 300;
    for (std::vector<uint32_t>& ids : step.ids) {
      ids = RandomIds(random, checkpoint_, 1 + random() % 100);
      for (uint32_t& id : ids) id = random() % 40 == 0 ? kDeadPosition : id % among;
    }
    if (random() % 30 == 0) step.ids[1][0] = 0xFFFFFF00u;
    const std::string table = random() % 30 == 0 ? "u" : "t";
    for (size_t i = 0; i < 2; ++i) {
      LookupRequest request{.table = table};
      for (size_t layer = 0; layer < 2; ++layer) {
        step.rows[i][layer].assign(step.ids[layer].size() * kRowBytes, std::byte{0xEE});
        step.tiers[i][layer].resize(step.ids[layer].size());
        request.layers.push_back({kLayers[layer], step.ids[layer],
                                  absl::MakeSpan(step.rows[i][layer]),
                                  absl::MakeSpan(step.tiers[i][layer])});
      }
      const absl::Status sent = streams_[i]->Send(request);
      ASSERT_TRUE(sent.ok()) << sent;
    }
  }

  // Both answers to a request, compared with each other and with the checkpoint.
  void Receive(uint64_t sequence) {
    bool last = false;
    for (size_t layer = 0; layer < 2 && !last; ++layer) {
      std::array<LookupStream::Event, 2> events;
      for (size_t i = 0; i < 2; ++i) {
        auto event = streams_[i]->Receive();
        ASSERT_TRUE(event.ok()) << event.status();
        events[i] = *std::move(event);
        ASSERT_EQ(events[i].sequence, sequence);
        ASSERT_EQ(events[i].status, events[0].status);
        ASSERT_EQ(events[i].last, events[0].last);
        if (events[i].status.ok()) Compare(steps_[sequence % kAhead], i, layer, events[i]);
      }
      last = events[0].last;
      if (events[0].status.ok()) dram_rows_ += events[0].layer.dram_rows;
    }
  }

  void Close() {
    for (const std::unique_ptr<LookupStream>& stream : streams_) {
      stream->CloseSend();
      EXPECT_TRUE(absl::IsOutOfRange(stream->Receive().status()));
      EXPECT_TRUE(absl::IsFailedPrecondition(stream->Send({.table = "t"})));
    }
  }

  // Rows that the client over shared memory read there.
  uint64_t dram_rows() const { return dram_rows_; }

 private:
  static constexpr std::array<int, 2> kLayers = {1, 14};
  struct Step {
    std::array<std::vector<uint32_t>, 2> ids;  // of each layer
    std::array<std::array<std::vector<std::byte>, 2>, 2> rows;
    std::array<std::array<std::vector<uint8_t>, 2>, 2> tiers;
  };

  void Compare(const Step& step, size_t i, size_t layer, const LookupStream::Event& event) const {
    EXPECT_EQ(event.last, layer == 1);
    EXPECT_EQ(event.version, 1u);
    EXPECT_EQ(event.layer.layer, kLayers[layer]);
    ExpectRows(checkpoint_, kLayers[layer], step.ids[layer], step.rows[i][layer]);
    const std::vector<uint8_t>& tiers = step.tiers[i][layer];
    EXPECT_EQ(event.layer.dram_rows, std::count(tiers.begin(), tiers.end(), 1));
    EXPECT_EQ(event.layer.nvme_rows, std::count(tiers.begin(), tiers.end(), 2));
  }

  std::array<std::unique_ptr<LookupStream>, 2> streams_;
  const TestCheckpoint& checkpoint_;
  std::array<Step, kAhead> steps_;
  uint64_t dram_rows_ = 0;
};

TEST_F(ShmTest, StreamsAnswerAsGrpcDoes) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 1);
  StartDaemon({"--dram", "1MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::array<std::unique_ptr<Client>, 2> clients = {ShmClient(), GrpcClient()};
  std::array<std::unique_ptr<LookupStream>, 2> opened;
  for (size_t i = 0; i < 2; ++i) {
    auto stream = clients[i]->OpenStream();
    ASSERT_TRUE(stream.ok()) << stream.status();
    opened[i] = *std::move(stream);
  }
  StreamsInStep streams(std::move(opened), checkpoint);
  constexpr uint64_t kSteps = 600;
  std::mt19937_64 random(TestSeed());
  for (uint64_t sequence = 0; sequence < StreamsInStep::kAhead; ++sequence) {
    streams.Send(sequence, random);
  }
  for (uint64_t sequence = 0; sequence < kSteps && !HasFailure(); ++sequence) {
    streams.Receive(sequence);
    if (sequence + StreamsInStep::kAhead < kSteps) {
      streams.Send(sequence + StreamsInStep::kAhead, random);
    }
  }
  EXPECT_GT(streams.dram_rows(), kSteps);
  streams.Close();
}

TEST_F(ShmTest, AStreamOfRowsInDramNeedsNoDaemonAndBreaksWhenItMust) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 100);
  Warm(checkpoint, ids);
  auto connected = Client::Connect({.target = daemon_->target(),
                                    .default_deadline = std::chrono::seconds(2),
                                    .transport = TransportKind::kShm});
  ASSERT_TRUE(connected.ok()) << connected.status();
  const std::unique_ptr<Client> client = *std::move(connected);
  ASSERT_TRUE(LookupAndCompare(*client, "t", checkpoint, ids).ok());  // maps the tier
  auto stream = client->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  std::vector<std::byte> rows(ids.size() * kRowBytes);
  const auto send = [&] {
    return (*stream)->Send({.table = "t", .layers = {{1, ids, absl::MakeSpan(rows), {}}}});
  };
  ASSERT_EQ(::kill(daemon_->pid(), SIGSTOP), 0);
  const absl::Status sent = send();
  const auto event = (*stream)->Receive();
  ASSERT_EQ(::kill(daemon_->pid(), SIGCONT), 0);
  ASSERT_TRUE(sent.ok()) << sent;
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_TRUE(event->last);
  ExpectRows(checkpoint, 1, ids, rows);
  // A receiver that waits hears of the end as soon as the sender does.
  absl::Status received;
  std::thread receiver([&] {
    while (received.ok()) received = (*stream)->Receive().status();
  });
  daemon_->Kill();
  absl::Status broken;
  while (broken.ok()) broken = send();
  receiver.join();
  EXPECT_TRUE(absl::IsUnavailable(broken)) << broken;
  EXPECT_TRUE(absl::IsUnavailable(received)) << received;
}

TEST_F(ShmTest, ASwitchIsSeenByTheNextCall) {
  const TestCheckpoint one = MakeCheckpoint("one", 500, 1);
  const TestCheckpoint two = MakeCheckpoint("two", 500, 2);
  StartDaemon();
  ASSERT_TRUE(Load("t", one.directory).ok());
  ASSERT_TRUE(Load("t", two.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, one, 200);
  const std::unique_ptr<Client> client = ShmClient();
  for (int round = 0; round < 20; ++round) {
    const uint64_t version = 1 + round % 2;
    Activate(version);
    for (int call = 0; call < 3; ++call) {
      const auto answer = LookupAndCompare(*client, "t", version == 1 ? one : two, ids);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->version, version);
    }
  }
  v1::DropTableRequest drop;
  drop.set_table("t");
  ASSERT_TRUE(admin_->DropTable(drop).ok());
  EXPECT_EQ(SegmentFiles(), std::vector<std::string>());
  EXPECT_EQ(LookupAndCompare(*client, "t", one, ids).status().code(), absl::StatusCode::kNotFound);
}

// However the daemon ends, the next one serves from DRAM at once, and clients find it.
TEST_F(ShmTest, TheNextDaemonTakesTheTierOver) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 3000, 1);
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 1000);
  // With room for all rows, and for some.
  for (const std::string dram : {"64MiB", "5MiB"}) {
    StartDaemon({"--dram", dram});
    ASSERT_TRUE(Load("t", checkpoint.directory).ok());
    Warm(checkpoint, ids);
    const std::unique_ptr<Client> client = ShmClient();
    ASSERT_TRUE(LookupAndCompare(*client, "t", checkpoint, ids).ok());
    for (const bool kill : {true, false}) {
      if (kill) daemon_->Kill();
      StopDaemon();
      StartDaemon({"--dram", dram});
      const auto answer = LookupAndCompare(*client_, "t", checkpoint, ids);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->layers[0].dram_rows, ids.size());
      EXPECT_EQ(answer->layers[1].dram_rows, ids.size());
      // The client of the daemon before.
      const auto again = LookupAndCompare(*client, "t", checkpoint, ids);
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->layers[0].dram_rows, ids.size());
    }
    StopDaemon();
  }
}

TEST_F(ShmTest, EngramctlMeasuresBothTransportsAndShowsWhereDramLies) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  for (const std::string transport : {"grpc", "shm"}) {
    const CommandResult result =
        RunTool("engramctl", {"bench", "t", "--server", daemon_->target(), "--transport", transport,
                              "--seconds", "0.2", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    EXPECT_NE(result.output.find("\"transport\": \"" + transport + "\""), std::string::npos)
        << result.output;
  }
  const std::unique_ptr<Client> client = ShmClient();
  const CommandResult stats = RunTool("engramctl", {"stats", "--server", daemon_->target()});
  EXPECT_NE(stats.output.find("dram in tmpfs " + ShmDirOf(dir_.path())), std::string::npos)
      << stats.output;
  EXPECT_EQ(stats.output.find("; 0 clients read it themselves"), std::string::npos) << stats.output;
}

TEST_F(ShmTest, WithoutWarmRestartNothingStays) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 1);
  StartDaemon({"--warm-restart=false"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  EXPECT_FALSE(SegmentFiles().empty());
  StopDaemon();
  EXPECT_EQ(SegmentFiles(), std::vector<std::string>());
}

// What an earlier daemon left is used only if it is whole and of this layout.
TEST_F(ShmTest, RefusesWhatItCannotTrust) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 3000, 1);
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 1000);
  StartDaemon({"--dram", "5MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  Warm(checkpoint, ids);
  const auto damage = [&](const std::function<void(const std::string&)>& change) {
    StopDaemon();
    // Else the rows would be read from the drive again at once, and refused memory look the same.
    std::filesystem::remove_all(dir_.path() + "/data/hotness");
    for (const std::string& file : SegmentFiles()) change(file);
    StartDaemon({"--dram", "5MiB"});
    auto answer = LookupAndCompare(*client_, "t", checkpoint, ids);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_GT(answer->layers[0].nvme_rows, 0u);
    Warm(checkpoint, ids);
  };
  const auto write = [](const std::string& file, size_t offset, const void* bytes, size_t size) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(offset));
    out.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    ASSERT_TRUE(out.good());
  };
  damage([&](const std::string& file) {  // another layout
    const uint32_t next = dram::kLayoutVersion + 1;
    write(file, offsetof(dram::SegmentHeader, layout_version), &next, sizeof(next));
  });
  EXPECT_NE(daemon_->Log().find("is no segment of layout"), std::string::npos);
  damage([&](const std::string& file) {  // another table
    write(file, offsetof(dram::SegmentHeader, table_digest), "x", 1);
  });
  damage([&](const std::string& file) {  // cut short
    std::filesystem::resize_file(file, dram::kHeaderBytes + 100);
  });
  damage([&](const std::string& file) { std::filesystem::resize_file(file, 10); });
  damage([&](const std::string& file) {  // every set was being written
    dram::SegmentHeader header{};
    std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof(header));
    const dram::LayerShape shape{.row_bytes = kRowBytes, .per_segment = header.per_segment};
    const std::string garbage(shape.SetBytes() - sizeof(dram::TagLine), 'x');
    for (uint32_t set = 0; set < header.per_segment; ++set) {
      const uint64_t at = shape.RowsOffset() + set * shape.SetBytes();
      uint32_t version = 0;
      std::ifstream in(file, std::ios::binary);
      in.seekg(static_cast<std::streamoff>(at));
      in.read(reinterpret_cast<char*>(&version), sizeof(version));
      version |= 1;
      write(file, at, &version, sizeof(version));
      write(file, at + sizeof(dram::TagLine), garbage.data(), garbage.size());
    }
  });
}

// Where a layer has some segments, a smaller budget takes some of them and leaves the others.
// Nobody reads meanwhile, so that what is found afterwards was there.
TEST_F(ShmTest, RowsStayWhenTheBudgetShrinks) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 20'000, 1);  // 40 MiB
  StartDaemon({"--dram", "32MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 3000);
  Warm(checkpoint, ids);
  const std::unique_ptr<Client> client = ShmClient();
  const auto before = LookupAndCompare(*client, "t", checkpoint, ids);
  ASSERT_TRUE(before.ok()) << before.status();
  v1::SetDramBudgetRequest request;
  request.set_bytes(uint64_t{26} << 20);
  ASSERT_TRUE(admin_->SetDramBudget(request).ok());
  const auto after = LookupAndCompare(*client, "t", checkpoint, ids);
  ASSERT_TRUE(after.ok()) << after.status();
  for (const size_t layer : {0, 1}) {
    EXPECT_EQ(before->layers[layer].dram_rows, ids.size());
    EXPECT_GT(after->layers[layer].dram_rows, ids.size() / 2);
    EXPECT_LT(after->layers[layer].dram_rows, ids.size());
  }
}

// With engramctl, up and down under a client that reads all the time.
TEST_F(ShmTest, TheBudgetChangesWhileClientsRead) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 8000, 1);  // 16 MiB
  StartDaemon({"--dram", "12MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 3000);
  Warm(checkpoint, ids);
  const std::unique_ptr<Client> client = ShmClient();
  const auto set_budget = [&](const std::string& budget) {
    const CommandResult result =
        RunTool("engramctl", {"budget", "--dram", budget, "--server", daemon_->target(), "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.errors;
    EXPECT_NE(result.output.find("\"dram_budget_bytes\""), std::string::npos) << result.output;
  };
  const auto files_bytes = [&] {
    uint64_t bytes = 0;
    for (const std::string& file : SegmentFiles()) bytes += std::filesystem::file_size(file);
    return bytes;
  };
  for (const uint64_t mib : {10, 6, 12, 1, 32, 0, 12}) {
    auto before = LookupAndCompare(*client, "t", checkpoint, ids);
    ASSERT_TRUE(before.ok()) << before.status();
    std::atomic<bool> stop{false};
    std::thread reader([&] {
      while (!stop && !HasFailure()) {
        const auto answer = LookupAndCompare(*client, "t", checkpoint, ids);
        EXPECT_TRUE(answer.ok()) << answer.status();
      }
    });
    set_budget(std::to_string(mib) + "MiB");
    // When the command returns, what was given up is free: also of what the client has mapped.
    EXPECT_LE(files_bytes(), mib << 20);
    if (mib < 16) {
      const uint64_t budget = mib << 20;
      EXPECT_GE(files_bytes(), (budget - dram::BytesForRings(budget)) / 4 * 3);
    }
    stop = true;
    reader.join();
    const auto stats = admin_->Stats();
    ASSERT_TRUE(stats.ok()) << stats.status();
    EXPECT_EQ(stats->dram_budget_bytes(), mib << 20);
  }
  Warm(checkpoint, ids);
  const auto answer = LookupAndCompare(*client, "t", checkpoint, ids);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->layers[0].dram_rows, ids.size());

  const CommandResult refused =
      RunTool("engramctl", {"budget", "--dram", "60TiB", "--server", daemon_->target()});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.errors.find("a dram budget of 60TiB does not fit"), std::string::npos)
      << refused.errors;
  EXPECT_EQ(admin_->Stats()->dram_budget_bytes(), 12u << 20);
  EXPECT_EQ(RunTool("engramctl", {"budget", "--server", daemon_->target()}).exit_code, 2);
}

TEST_F(ShmTest, ADirectoryThatIsTooSmallIsAnErrorBeforeAnythingIsServed) {
  const std::string shm_dir = ShmDirOf(dir_.path());
  std::filesystem::create_directory(shm_dir);
  const CommandResult result = RunTool(
      "engramd", {"--data-dir", dir_.path() + "/data", "--listen", "unix:" + dir_.path() + "/s",
                  "--http", "", "--dram", "60TiB", "--shm-dir", shm_dir});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.output, "");
  EXPECT_NE(result.errors.find("does not fit into shm_dir " + shm_dir), std::string::npos)
      << result.errors;
  EXPECT_NE(result.errors.find("--shm-size"), std::string::npos) << result.errors;
  const CommandResult drive =
      RunTool("engramd", {"--data-dir", dir_.path() + "/data", "--listen",
                          "unix:" + dir_.path() + "/s", "--http", "", "--shm-dir", dir_.path()});
  EXPECT_EQ(drive.exit_code, 1);
  EXPECT_NE(drive.errors.find("is neither a tmpfs nor a hugetlbfs"), std::string::npos)
      << drive.errors;
}

}  // namespace
}  // namespace engram::testing
