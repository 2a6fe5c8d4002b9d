// What the daemon does with messages that no client of ours would send, and what other people's
// tools rely on: health and reflection.

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <random>
#include <thread>

#include "engram/v1/store.grpc.pb.h"
#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using ::testing::HasSubstr;

class WireTest : public DaemonFixture {
 protected:
  void SetUp() override {
    checkpoint_ = MakeCheckpoint("ckpt", 500, 1);
    StartDaemon();
    ASSERT_TRUE(Load("t", checkpoint_.directory).ok());
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ =
        grpc::CreateCustomChannel(daemon_->target(), grpc::InsecureChannelCredentials(), arguments);
  }

  // One unary call with these bytes as its message.
  grpc::Status Call(const std::string& method, const grpc::ByteBuffer& message,
                    grpc::ByteBuffer* answer) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(&context, method, message, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(answer, &status, this);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    return status;
  }

  static grpc::ByteBuffer Buffer(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    return grpc::ByteBuffer(&slice, 1);
  }

  void ExpectServesOn() {
    EXPECT_TRUE(daemon_->Alive());
    EXPECT_TRUE(LookupAndCompare(*client_, "t", checkpoint_, {0, 1, 1999}).ok());
  }

  TestCheckpoint checkpoint_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(WireTest, TwoGigabyteRequestIsRefusedByItsSize) {
  // One MiB of zeros, 2,047 times over: 2 GiB less 1 MiB on the wire, one MiB in memory.
  const grpc::Slice block(std::string(size_t{1} << 20, '\0'));
  const std::vector<grpc::Slice> blocks(2047, block);
  grpc::ByteBuffer answer;
  const grpc::Status status = Call("/engram.v1.EngramStore/Lookup",
                                   grpc::ByteBuffer(blocks.data(), blocks.size()), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr(std::to_string(64 << 20)));
  ExpectServesOn();
}

TEST_F(WireTest, GarbageIsRefusedOnEveryMethod) {
  const std::string garbage = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x07 this is no message";
  for (const char* method : {"Lookup", "Describe", "Prefetch"}) {
    grpc::ByteBuffer answer;
    const grpc::Status status =
        Call(std::string("/engram.v1.EngramStore/") + method, Buffer(garbage), &answer);
    EXPECT_THAT(status.error_code(),
                ::testing::AnyOf(grpc::StatusCode::INTERNAL, grpc::StatusCode::INVALID_ARGUMENT))
        << method;
  }
  ExpectServesOn();
}

TEST_F(WireTest, RandomAndTruncatedMessagesNeverKillTheDaemon) {
  std::mt19937_64 random(TestSeed());
  v1::LookupRequest request;
  request.set_table("t");
  v1::LayerRowIds& layer = *request.mutable_ids()->add_layers();
  layer.set_layer(1);
  layer.set_row_ids(std::string(4000, '\1'));
  const std::string good = request.SerializeAsString();
  for (int i = 0; i < 300; ++i) {
    std::string bytes = good.substr(0, random() % (good.size() + 1));
    for (int flips = random() % 8; flips > 0 && !bytes.empty(); --flips) {
      bytes[random() % std::min<size_t>(bytes.size(), 40)] ^= static_cast<char>(1 << random() % 8);
    }
    grpc::ByteBuffer answer;
    (void)Call("/engram.v1.EngramStore/Lookup", Buffer(bytes), &answer);
  }
  ExpectServesOn();
}

TEST_F(WireTest, AnswersAreMessagesThatGeneratedCodeReads) {
  auto stub = v1::EngramStore::NewStub(channel_);
  v1::LookupRequest request;
  request.set_table("t");
  request.set_want_tiers(true);
  const std::vector<uint32_t> ids = {5, kDeadPosition, 1999};
  for (const int layer : {14, 1}) {
    v1::LayerRowIds& out = *request.mutable_ids()->add_layers();
    out.set_layer(layer);
    out.set_row_ids(ids.data(), ids.size() * sizeof(uint32_t));
  }
  grpc::ClientContext context;
  v1::LookupResponse answer;
  const grpc::Status status = stub->Lookup(&context, request, &answer);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(answer.version(), 1u);
  ASSERT_EQ(answer.layers_size(), 2);
  for (int i = 0; i < 2; ++i) {
    const v1::LayerRows& layer = answer.layers(i);
    EXPECT_EQ(layer.layer(), i == 0 ? 1 : 14);
    EXPECT_EQ(layer.row_bytes(), kRowBytes);
    EXPECT_EQ(layer.served().nvme(), 2u);
    EXPECT_EQ(layer.tiers(), std::string("\x02\xff\x02"));
    std::vector<std::byte> rows(layer.rows().size());
    std::memcpy(rows.data(), layer.rows().data(), rows.size());
    ExpectRows(checkpoint_, layer.layer(), ids, rows);
  }
}

TEST_F(WireTest, LayersWithoutIdsGiveLayersWithoutRows) {
  auto stub = v1::EngramStore::NewStub(channel_);
  v1::LookupRequest request;
  request.set_table("t");
  request.mutable_ids()->add_layers()->set_layer(1);
  grpc::ClientContext context;
  v1::LookupResponse answer;
  ASSERT_TRUE(stub->Lookup(&context, request, &answer).ok());
  ASSERT_EQ(answer.layers_size(), 1);
  EXPECT_TRUE(answer.layers(0).rows().empty());
}

TEST_F(WireTest, HealthIsServing) {
  // grpc.health.v1.HealthCheckRequest { string service = 1; }
  for (const std::string& service : {std::string(), std::string("engram.v1.EngramStore")}) {
    std::string request;
    if (!service.empty())
      request = std::string("\x0a") + static_cast<char>(service.size()) + service;
    grpc::ByteBuffer answer;
    const grpc::Status status = Call("/grpc.health.v1.Health/Check", Buffer(request), &answer);
    ASSERT_TRUE(status.ok()) << status.error_message();
    grpc::Slice slice;
    ASSERT_TRUE(answer.DumpToSingleSlice(&slice).ok());
    // HealthCheckResponse { ServingStatus status = 1; }, SERVING = 1.
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(slice.begin()), slice.size()), "\x08\x01");
  }
}

// Streams that end in every way, at any moment, side by side.
TEST_F(WireTest, StreamsThatAreCutOffAnywhereLeaveNothingBehind) {
  constexpr int kThreads = 4;
  constexpr int kStreams = 150;
  const auto store = v1::EngramStore::NewStub(channel_);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&store, random = std::mt19937_64(TestSeed() + thread)]() mutable {
      v1::LookupRequest request;
      request.set_table("t");
      request.mutable_ids()->add_layers()->set_layer(14);
      for (int i = 0; i < kStreams; ++i) {
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
        const auto stream = store->StreamLookup(&context);
        const uint64_t asked = random() % 20;  // more than the daemon reads ahead
        for (uint64_t id = 1; id <= asked; ++id) {
          request.set_request_id(id);
          // Some with rows, some refused.
          request.mutable_ids()->mutable_layers(0)->set_row_ids(
              std::string(4 * (random() % 500), '\0') + (random() % 8 == 0 ? "x" : ""));
          if (!stream->Write(request)) break;
        }
        v1::StreamLookupResponse answer;
        for (uint64_t left = random() % (asked + 1); left > 0 && stream->Read(&answer); --left) {
        }
        switch (random() % 3) {
          case 0:
            context.TryCancel();
            break;
          case 1:
            stream->WritesDone();
            while (stream->Read(&answer)) {
            }
            EXPECT_EQ(asked == 0 ? 0 : answer.request_id(), asked);
            EXPECT_TRUE(stream->Finish().ok());
            break;
          default:  // dropped as it is
            break;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectServesOn();
}

TEST_F(WireTest, AnUnknownMethodIsUnimplemented) {
  grpc::ByteBuffer answer;
  EXPECT_EQ(Call("/engram.v1.EngramStore/Nothing", Buffer(""), &answer).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  ExpectServesOn();
}

}  // namespace
}  // namespace engram::testing
