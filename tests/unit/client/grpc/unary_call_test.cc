// Blocking calls, awake and asleep, against a server that answers soon, late, never or with
// nothing.
#include "client/grpc/unary_call.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace engram {
namespace {

constexpr char kSoon[] = "/t.T/Soon";
constexpr char kLate[] = "/t.T/Late";  // far later than a caller stays awake
constexpr char kNever[] = "/t.T/Never";
constexpr char kNothing[] = "/t.T/Nothing";  // OK without a message
constexpr std::chrono::milliseconds kLateness{5};
constexpr std::chrono::seconds kLong{60};

grpc::ByteBuffer BufferOf(const std::string& text) {
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

std::string TextOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return "no message";
  std::string text;
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return text;
}

// Sends each request back, as its method says.
class EchoService final : public grpc::CallbackGenericService {
 private:
  class Call final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Call(std::string method) : method_(std::move(method)) { StartRead(&message_); }

   private:
    void OnReadDone(bool /*ok*/) override {
      if (method_ == kNever) return;  // OnCancel ends it
      if (method_ == kNothing) return Finish(grpc::Status::OK);
      if (method_ == kLate) std::this_thread::sleep_for(kLateness);
      StartWriteAndFinish(&message_, {}, grpc::Status::OK);
    }
    void OnCancel() override {
      if (method_ == kNever) Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override { delete this; }

    const std::string method_;
    grpc::ByteBuffer message_;
  };

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Call(context->method());
  }
};

// Counts the attempts that a channel makes.
class CountingFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit CountingFactory(std::atomic<int>* attempts) : attempts_(attempts) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* /*info*/) override {
    ++*attempts_;
    return nullptr;
  }

 private:
  std::atomic<int>* const attempts_;
};

class UnaryCallTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = testing::TempDir() + "/engram_unary_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    directory_ = path;
    const std::string address = "unix:" + directory_ + "/s";
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> counting;
    counting.push_back(std::make_unique<CountingFactory>(&attempts_));
    caller_ = std::make_unique<UnaryCaller>(grpc::experimental::CreateCustomChannelWithInterceptors(
        address, grpc::InsecureChannelCredentials(), {}, std::move(counting)));
  }
  void TearDown() override {
    caller_.reset();
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    std::filesystem::remove_all(directory_);
  }

  absl::Status Call(const char* method, const std::string& text, std::string* answer,
                    std::chrono::milliseconds timeout = kLong) {
    grpc::ByteBuffer buffer;
    const absl::Status status = caller_->Call(method, BufferOf(text), timeout, &buffer);
    *answer = TextOf(buffer);
    return status;
  }
  void ExpectEcho(const char* method, const std::string& text) {
    std::string answer;
    const absl::Status status = Call(method, text, &answer);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(answer, text);
  }

  std::string directory_;
  EchoService service_;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<int> attempts_{0};
  std::unique_ptr<UnaryCaller> caller_;
};

TEST_F(UnaryCallTest, GivesTheAnswerWhetherItComesSoonOrLate) {
  ExpectEcho(kLate, "awake at first");
  ExpectEcho(kLate, "asleep");
  for (int i = 0; i < 100; ++i) ExpectEcho(kSoon, "soon " + std::to_string(i));
  ExpectEcho(kSoon, "");
  ExpectEcho(kSoon, std::string(3 << 20, 'x'));
  ExpectEcho(kLate, "late again");
}

TEST_F(UnaryCallTest, AnOkWithoutAMessageIsAnErrorAwakeAndAsleep) {
  std::string answer;
  EXPECT_EQ(Call(kNothing, "", &answer).code(), absl::StatusCode::kUnimplemented);
  ExpectEcho(kLate, "from now on it sleeps");
  EXPECT_EQ(Call(kNothing, "", &answer).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(UnaryCallTest, EndsWithItsTimeAwakeAndAsleep) {
  std::string answer;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Call(kNever, "x", &answer, std::chrono::milliseconds(20)).code(),
              absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_EQ(Call(kNever, "x", &answer, std::chrono::milliseconds(-1)).code(),
            absl::StatusCode::kDeadlineExceeded);
}

// CANCELLED also comes from a daemon that is ending, and is then repeated until the deadline.
TEST_F(UnaryCallTest, ACallThatItsCallerCancelsIsNotRepeated) {
  int ends = 0;
  absl::Status end;
  caller_->CallAsync(kNever, BufferOf("x"), std::chrono::seconds(10),
                     [&](const absl::Status& status, grpc::ByteBuffer* /*answer*/) {
                       ++ends;
                       end = status;
                     });
  EXPECT_EQ(attempts_, 1);
  caller_.reset();
  EXPECT_EQ(attempts_, 1);
  EXPECT_EQ(ends, 1);
  EXPECT_EQ(end.code(), absl::StatusCode::kCancelled) << end;
}

TEST_F(UnaryCallTest, ThreadsThatShareACallerGetTheirOwnAnswers) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string text = std::to_string(t) + ":" + std::to_string(i);
        std::string answer;
        const bool late = i % 50 == t;
        wrong += !Call(late ? kLate : kSoon, text, &answer).ok() || answer != text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace engram
