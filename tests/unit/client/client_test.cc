#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <thread>

#include "tests/unit/client/fake_daemon.h"

namespace engram {
namespace {

using testing::AnswerLookup;
using testing::FakeDaemon;
using ::testing::HasSubstr;
using testing::RowBytes;

constexpr std::chrono::milliseconds kLong{60000};

std::unique_ptr<Client> Connected(const FakeDaemon& daemon, size_t max_answer_bytes = 1 << 20) {
  ClientOptions options;
  options.target = daemon.target();
  options.max_answer_bytes = max_answer_bytes;
  options.default_deadline = kLong;
  auto client = Client::Connect(options);
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

// A look-up of both layers with buffers of its own.
class Ask {
 public:
  explicit Ask(uint32_t first_id = 0) : ids1_{first_id, 99, kDeadPosition}, ids14_{first_id} {
    request_.table = "t";
    request_.layers.push_back({1, ids1_, absl::MakeSpan(out1_), absl::MakeSpan(tiers_)});
    request_.layers.push_back({14, ids14_, absl::MakeSpan(out14_), {}});
  }
  Ask(const Ask&) = delete;
  Ask& operator=(const Ask&) = delete;

  LookupRequest& request() { return request_; }

  void ExpectLayer1() const {
    const std::string want = RowBytes(1, ids1_[0]) + RowBytes(1, 99) + RowBytes(1, kDeadPosition);
    EXPECT_EQ(absl::string_view(reinterpret_cast<const char*>(out1_.data()), 24), want);
    EXPECT_THAT(tiers_, ::testing::ElementsAre(1, 1, 255));
  }
  void ExpectLayer14() const {
    EXPECT_EQ(absl::string_view(reinterpret_cast<const char*>(out14_.data()), 6),
              RowBytes(14, ids14_[0]));
  }
  void ExpectAnswered(const absl::StatusOr<LookupAnswer>& answer) const {
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->version, 3u);
    ASSERT_EQ(answer->layers.size(), 2u);
    EXPECT_EQ(answer->layers[0].dram_rows, 2u);
    ExpectLayer1();
    ExpectLayer14();
  }

 private:
  const std::vector<uint32_t> ids1_;
  const std::vector<uint32_t> ids14_;
  std::vector<std::byte> out1_ = std::vector<std::byte>(24);
  std::vector<std::byte> out14_ = std::vector<std::byte>(6);
  std::vector<uint8_t> tiers_ = std::vector<uint8_t>(3);
  LookupRequest request_;
};

absl::StatusOr<LookupAnswer> WaitForAsync(Client& client, const LookupRequest& request) {
  std::promise<absl::StatusOr<LookupAnswer>> promise;
  client.LookupAsync(
      request, [&](absl::StatusOr<LookupAnswer> answer) { promise.set_value(std::move(answer)); });
  return promise.get_future().get();
}

TEST(ClientTest, DescribesATable) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  const auto table = client->Describe("t");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->name, "t");
  EXPECT_EQ(table->version, 3u);
  EXPECT_TRUE(table->active);
  EXPECT_EQ(table->table_digest, "d0");
  EXPECT_EQ(table->max_ngram_size, 3);
  ASSERT_EQ(table->layers.size(), 2u);
  EXPECT_EQ(table->layers[1].layer, 14);
  EXPECT_EQ(table->layers[1].row_bytes, 6u);
  ASSERT_EQ(table->layers[0].columns.size(), 1u);
  EXPECT_EQ(table->layers[0].columns[0].head, 1);
  EXPECT_EQ(client->Describe("u").status(), absl::NotFoundError("no table \"u\""));
}

TEST(ClientTest, LooksUpBothWays) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  Ask sync(4);
  sync.ExpectAnswered(client->Lookup(sync.request()));
  Ask async(5);
  async.ExpectAnswered(WaitForAsync(*client, async.request()));
}

TEST(ClientTest, PassesOnTheDaemonsErrors) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  Ask ask;
  ask.request().expect_table_digest = "d0";
  ask.ExpectAnswered(client->Lookup(ask.request()));
  ask.request().expect_table_digest = "other";
  EXPECT_TRUE(absl::IsFailedPrecondition(client->Lookup(ask.request()).status()));
  ask.request().table = "gone";
  EXPECT_TRUE(absl::IsNotFound(client->Lookup(ask.request()).status()));
  EXPECT_TRUE(absl::IsNotFound(WaitForAsync(*client, ask.request()).status()));
}

TEST(ClientTest, ABufferOfTheWrongSizeIsNotFilled) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  const std::vector<uint32_t> ids = {1, 2};
  std::vector<std::byte> out(17);
  const absl::Status status =
      client->Lookup({.table = "t", .layers = {{1, ids, absl::MakeSpan(out), {}}}}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("out has 17 bytes"));
  EXPECT_THAT(out, ::testing::Each(std::byte{0}));
}

TEST(ClientTest, KeepsTheTextOfAnAnswerThatIsTooLarge) {
  FakeDaemon daemon;
  const auto client = Connected(daemon, 1000);
  const std::vector<uint32_t> ids(200, 1);
  std::vector<std::byte> out(1600);
  const absl::Status status =
      client->Lookup({.table = "t", .layers = {{1, ids, absl::MakeSpan(out), {}}}}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("1000"));
}

TEST(ClientTest, Prefetches) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  const std::vector<uint32_t> ids = {1, 2, 3};
  std::promise<absl::StatusOr<PrefetchAnswer>> promise;
  client->Prefetch({.table = "t", .layers = {{1, ids}, {14, ids}}},
                   [&](absl::StatusOr<PrefetchAnswer> answer) { promise.set_value(answer); });
  const auto answer = promise.get_future().get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->accepted, 6u);
  EXPECT_EQ(answer->skipped, 1u);
  client->Prefetch({.table = "t"});  // nobody to tell
}

TEST(ClientTest, RepeatsWhatFoundTheDaemonUnavailable) {
  FakeDaemon daemon;
  daemon.on_lookup = [&](const FakeDaemon::Cancelled&, const v1::LookupRequest& request,
                         v1::LookupResponse* response) {
    if (daemon.lookups % 3 != 0) return absl::UnavailableError("busy");
    return AnswerLookup(request, response);
  };
  const auto client = Connected(daemon);
  Ask sync(1);
  sync.ExpectAnswered(client->Lookup(sync.request()));
  EXPECT_EQ(daemon.lookups, 3);
  Ask async(2);
  async.ExpectAnswered(WaitForAsync(*client, async.request()));
  EXPECT_EQ(daemon.lookups, 6);
}

TEST(ClientTest, GivesTheLastUnavailableWhenItsTimeIsUp) {
  FakeDaemon daemon;
  daemon.on_lookup = [](const FakeDaemon::Cancelled&, const v1::LookupRequest&,
                        v1::LookupResponse*) { return absl::UnavailableError("shutting down"); };
  const auto client = Connected(daemon);
  Ask ask;
  ask.request().deadline = std::chrono::milliseconds(300);
  EXPECT_EQ(client->Lookup(ask.request()).status(), absl::UnavailableError("shutting down"));
  EXPECT_EQ(WaitForAsync(*client, ask.request()).status(), absl::UnavailableError("shutting down"));
  EXPECT_GT(daemon.lookups, 2);
}

TEST(ClientTest, WorksAgainAfterTheDaemonWasRestarted) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  Ask before;
  before.ExpectAnswered(client->Lookup(before.request()));
  daemon.Stop();
  // Both are begun without a daemon; the blocking one ends only once it is back.
  Ask async(1);
  std::promise<absl::StatusOr<LookupAnswer>> promise;
  client->LookupAsync(async.request(), [&](absl::StatusOr<LookupAnswer> answer) {
    promise.set_value(std::move(answer));
  });
  Ask sync(2);
  std::future<absl::StatusOr<LookupAnswer>> blocked =
      std::async(std::launch::async, [&] { return client->Lookup(sync.request()); });
  daemon.Start();
  sync.ExpectAnswered(blocked.get());
  async.ExpectAnswered(promise.get_future().get());
  EXPECT_TRUE(client->OpenStream().ok());
}

TEST(ClientTest, ADeadlineEndsACallThatIsNotAnswered) {
  FakeDaemon daemon;
  daemon.on_lookup = [](const FakeDaemon::Cancelled& cancelled, const v1::LookupRequest&,
                        v1::LookupResponse*) {
    while (!cancelled()) std::this_thread::yield();
    return absl::CancelledError("gone");
  };
  const auto client = Connected(daemon);
  Ask ask;
  ask.request().deadline = std::chrono::milliseconds(50);
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Lookup(ask.request()).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(WaitForAsync(*client, ask.request()).status()));
}

TEST(ClientTest, DestructionCancelsAndWaitsForEveryCallback) {
  FakeDaemon daemon;
  daemon.on_lookup = [](const FakeDaemon::Cancelled& cancelled, const v1::LookupRequest&,
                        v1::LookupResponse*) {
    while (!cancelled()) std::this_thread::yield();
    return absl::CancelledError("gone");
  };
  auto client = Connected(daemon);
  Ask ask;
  std::atomic<int> done{0};
  Client* raw = client.get();
  const auto count = [&](const absl::StatusOr<LookupAnswer>& answer) {
    EXPECT_TRUE(absl::IsCancelled(answer.status())) << answer.status();
    ++done;
  };
  for (int i = 0; i < 8; ++i) {
    raw->LookupAsync(ask.request(), [&, raw](const absl::StatusOr<LookupAnswer>& answer) {
      count(answer);
      // One more, from a client that is going away: refused at once.
      raw->LookupAsync(ask.request(), count);
    });
  }
  client.reset();
  EXPECT_EQ(done, 16);
}

TEST(ClientTest, ConnectSaysWhomItCannotReachAndWhy) {
  const auto gone = Client::Connect({.target = "unix:" + ::testing::TempDir() + "no_such_socket",
                                     .connect_timeout = std::chrono::milliseconds(300)});
  ASSERT_TRUE(absl::IsUnavailable(gone.status())) << gone.status();
  EXPECT_THAT(std::string(gone.status().message()), HasSubstr("no_such_socket: is it running? ("));
  EXPECT_THAT(std::string(gone.status().message()), HasSubstr("No such file"));
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect({.target = "nonsense"}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      Client::Connect({.target = "unix:/s", .max_answer_bytes = size_t{1} << 31}).status()));
}

TEST(LookupStreamTest, AnswersLayerByLayerInOrder) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  constexpr uint32_t kRequests = 90;
  std::vector<std::unique_ptr<Ask>> asks;
  for (uint32_t i = 0; i < kRequests; ++i) asks.push_back(std::make_unique<Ask>(i));
  for (const auto& ask : asks) ASSERT_TRUE((*stream)->Send(ask->request()).ok());
  (*stream)->CloseSend();
  for (uint64_t i = 0; i < kRequests; ++i) {
    for (const int32_t layer : {1, 14}) {
      const auto event = (*stream)->Receive();
      ASSERT_TRUE(event.ok()) << event.status();
      EXPECT_EQ(event->sequence, i);
      EXPECT_EQ(event->layer.layer, layer);
      EXPECT_EQ(event->last, layer == 14);
      EXPECT_EQ(event->version, 3u);
      EXPECT_TRUE(event->status.ok());
    }
    asks[i]->ExpectLayer1();
    asks[i]->ExpectLayer14();
  }
  EXPECT_TRUE(absl::IsOutOfRange((*stream)->Receive().status()));
  EXPECT_TRUE(absl::IsOutOfRange((*stream)->Receive().status()));
  EXPECT_TRUE(absl::IsFailedPrecondition((*stream)->Send(asks[0]->request())));
}

TEST(LookupStreamTest, ManyMoreThanTheWindowFromTwoThreads) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  ASSERT_TRUE(stream.ok());
  constexpr uint32_t kRequests = 2000;
  std::vector<std::unique_ptr<Ask>> asks;
  for (uint32_t i = 0; i < kRequests; ++i) asks.push_back(std::make_unique<Ask>(i));
  std::thread sender([&] {
    for (const auto& ask : asks) EXPECT_TRUE((*stream)->Send(ask->request()).ok());
    (*stream)->CloseSend();
  });
  uint64_t answered = 0;
  while (true) {
    const auto event = (*stream)->Receive();
    if (!event.ok()) {
      EXPECT_TRUE(absl::IsOutOfRange(event.status())) << event.status();
      break;
    }
    answered += event->last ? 1 : 0;
  }
  sender.join();
  EXPECT_EQ(answered, kRequests);
  for (const auto& ask : asks) ask->ExpectLayer1();
}

TEST(LookupStreamTest, AFailedRequestLeavesTheStreamWhole) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  Ask unknown, wrong, good(3);
  unknown.request().table = "gone";
  wrong.request().layers[0].out = wrong.request().layers[0].out.subspan(1);
  for (Ask* ask : {&unknown, &wrong, &good}) ASSERT_TRUE((*stream)->Send(ask->request()).ok());

  auto event = (*stream)->Receive();
  ASSERT_TRUE(event.ok());
  EXPECT_TRUE(event->last);
  EXPECT_EQ(event->status, absl::NotFoundError("no table \"gone\""));

  event = (*stream)->Receive();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(event->sequence, 1u);
  EXPECT_FALSE(event->last);
  EXPECT_TRUE(absl::IsInvalidArgument(event->status)) << event->status;
  event = (*stream)->Receive();
  ASSERT_TRUE(event.ok() && event->last && event->status.ok());
  wrong.ExpectLayer14();

  for (int i = 0; i < 2; ++i) ASSERT_TRUE((*stream)->Receive().ok());
  good.ExpectLayer1();
  good.ExpectLayer14();
}

TEST(LookupStreamTest, AnAnswerToAnotherRequestBreaksIt) {
  FakeDaemon daemon;
  daemon.on_stream_answer = [](v1::StreamLookupResponse* message) { message->set_request_id(9); };
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  Ask ask;
  ASSERT_TRUE((*stream)->Send(ask.request()).ok());
  const absl::Status status = (*stream)->Receive().status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("request 9"));
  EXPECT_EQ((*stream)->Receive().status(), status);
  EXPECT_TRUE(absl::IsUnavailable((*stream)->Send(ask.request())));
}

TEST(LookupStreamTest, AMissingLayerBreaksIt) {
  FakeDaemon daemon;
  daemon.on_stream_answer = [](v1::StreamLookupResponse* message) { message->set_last(true); };
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  Ask ask;
  ASSERT_TRUE((*stream)->Send(ask.request()).ok());
  const absl::Status status = (*stream)->Receive().status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("lacks layer 14"));
}

TEST(LookupStreamTest, IsUnavailableWhenTheDaemonGoesAway) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  Ask ask;
  ASSERT_TRUE((*stream)->Send(ask.request()).ok());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE((*stream)->Receive().ok());
  daemon.Stop();
  EXPECT_FALSE((*stream)->Receive().ok());
  EXPECT_TRUE(absl::IsUnavailable((*stream)->Send(ask.request())));
}

TEST(LookupStreamTest, AnAnswerThatDoesNotComeIsNotWaitedForForEver) {
  FakeDaemon daemon;
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  daemon.on_stream_answer = [released](v1::StreamLookupResponse*) { released.wait(); };
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  Ask ask;
  ask.request().deadline = std::chrono::milliseconds(50);
  ASSERT_TRUE((*stream)->Send(ask.request()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded((*stream)->Receive().status()));
  release.set_value();
}

TEST(LookupStreamTest, AFullWindowGivesWayToTheDeadline) {
  FakeDaemon daemon;
  const auto client = Connected(daemon);
  auto stream = client->OpenStream();
  Ask ask;
  ask.request().deadline = std::chrono::milliseconds(200);
  int sent = 0;
  absl::Status status;
  while ((status = (*stream)->Send(ask.request())).ok()) ++sent;
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(sent, 128);
  ASSERT_TRUE((*stream)->Receive().ok());
  ASSERT_TRUE((*stream)->Receive()->last);
  EXPECT_TRUE((*stream)->Send(ask.request()).ok());
}

}  // namespace
}  // namespace engram
