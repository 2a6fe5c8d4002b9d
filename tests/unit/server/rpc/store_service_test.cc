// The service over a real socket, on a drive that answers when the test lets it.
#include "server/rpc/store_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "client/client.h"
#include "server/rpc/call_loop.h"
#include "storage/base/mutex.h"
#include "storage/nvme/store_internal.h"
#include "tests/fault/fault_file_system.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

constexpr int kBatchThreads = 2;
constexpr size_t kRowsPerCall = 8;
constexpr std::chrono::seconds kPatience{60};

// Holds back whoever reads a table's file while it is closed.
class Gate {
 public:
  ~Gate() { Open(); }

  void Close() {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  void Open() {
    {
      MutexLock lock(mutex_);
      closed_ = false;
    }
    changed_.NotifyAll();
  }
  void Pass() {
    MutexLock lock(mutex_);
    ++waiting_;
    changed_.NotifyAll();
    while (closed_) changed_.Wait(mutex_);
    --waiting_;
  }
  // False when fewer than `count` threads are held back for a long time.
  bool AwaitWaiting(int count) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    MutexLock lock(mutex_);
    while (waiting_ < count) {
      if (std::chrono::steady_clock::now() > end) return false;
      changed_.WaitFor(mutex_, std::chrono::milliseconds(100));
    }
    return true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

class StoreServiceTest : public TableFixture {
 protected:
  void SetUp() override {
    TableFixture::SetUp();
    store_.reset();
    StoreInternals internals;
    internals.wrap = [this](std::shared_ptr<rocksdb::FileSystem> base) {
      return std::make_shared<FaultFileSystem>(
          std::move(base), [this](FileOp op, const std::string& file, uint64_t, size_t) {
            if (op == FileOp::kRead && absl::EndsWith(file, ".sst")) gate_.Pass();
            return rocksdb::IOStatus::OK();
          });
    };
    auto store = engram::OpenStore({.directory = directory_ + "/data"}, internals);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    OpenTables(uint64_t{64} << 20);
    Load("t", 1, 20'000);
    StartServer();
  }

  void TearDown() override {
    gate_.Open();
    client_.reset();
    in_flight_.Close();
    service_->Drain();
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    loop_->Stop();
    server_.reset();
    loop_.reset();
    dispatcher_.reset();
    prefetcher_.reset();
    service_.reset();
    TableFixture::TearDown();
  }

  void StartServer() {
    dispatcher_ = std::make_unique<Dispatcher>(
        Dispatcher::Options{.threads = kBatchThreads, .max_queued = 1000});
    prefetcher_ = std::make_unique<Prefetcher>(tables_.get(), dispatcher_.get(), 100);
    service_ = StoreService::Create({.tables = tables_.get(),
                                     .pool = &pool_,
                                     .dispatcher = dispatcher_.get(),
                                     .clients = &clients_,
                                     .in_flight = &in_flight_,
                                     .prefetcher = prefetcher_.get(),
                                     .refusals = &refusals_,
                                     .limits = {}});
    const std::string target = absl::StrCat("unix:", directory_, "/socket");
    grpc::ServerBuilder builder;
    builder.AddListeningPort(target, grpc::InsecureServerCredentials());
    builder.RegisterService(service_->service());
    loop_ = std::make_unique<CallLoop>(builder.AddCompletionQueue(), loop_threads_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    service_->Accept(*loop_);
    loop_->Start();
    auto client = Client::Connect({.target = target});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  // kRowsPerCall rows of layer 1, from `first` on.
  struct Call {
    explicit Call(uint32_t first) {
      std::iota(ids.begin(), ids.end(), first);
      request.table = "t";
      request.layers = {{.layer = 1, .row_ids = ids, .out = absl::MakeSpan(rows)}};
      request.deadline = kPatience;
    }
    bool RowsAreRight() const {
      std::array<std::byte, kRowBytes> expected;
      for (size_t i = 0; i < ids.size(); ++i) {
        DeriveRow(1, ids[i], 1, absl::MakeSpan(expected));
        if (!std::equal(expected.begin(), expected.end(), rows.begin() + i * kRowBytes)) {
          return false;
        }
      }
      return true;
    }

    std::array<uint32_t, kRowsPerCall> ids;
    std::vector<std::byte> rows = std::vector<std::byte>(kRowsPerCall * kRowBytes);
    LookupRequest request;
    absl::Status status = absl::UnknownError("not answered");
  };

  // Looks up until DRAM has the rows: it is offered them after the answer.
  void MakeWarm(uint32_t first) {
    for (int i = 0; i < 1000; ++i) {
      Call call(first);
      const auto answer = client_->Lookup(call.request);
      ASSERT_TRUE(answer.ok()) << answer.status();
      ASSERT_TRUE(call.RowsAreRight());
      if (answer->layers[0].dram_rows == kRowsPerCall) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    FAIL() << "the rows do not come to DRAM";
  }

  // Where the rows are warm.
  void LookUpWarmRows(uint32_t first, int times) {
    for (int i = 0; i < times; ++i) {
      Call call(first);
      const auto answer = client_->Lookup(call.request);
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->layers[0].dram_rows, kRowsPerCall);
      EXPECT_TRUE(call.RowsAreRight());
    }
  }

  // Of so many calls for cold rows `at_the_drive` get as far as the drive, and nobody else waits.
  void ServeWarmRowsWhileTheDriveHangs(int calls, int at_the_drive) {
    gate_.Close();
    std::vector<std::unique_ptr<Call>> cold;
    absl::BlockingCounter answered(calls);
    for (int i = 0; i < calls; ++i) {
      Call& call = *cold.emplace_back(std::make_unique<Call>(1000 + 100 * i));
      client_->LookupAsync(call.request,
                           [&call, &answered](const absl::StatusOr<LookupAnswer>& answer) {
                             call.status = answer.status();
                             answered.DecrementCount();
                           });
    }
    EXPECT_TRUE(gate_.AwaitWaiting(at_the_drive));
    LookUpWarmRows(0, 200);
    gate_.Open();
    answered.Wait();
    for (const auto& call : cold) {
      EXPECT_TRUE(call->status.ok()) << call->status;
      EXPECT_TRUE(call->RowsAreRight()) << call->ids[0];
    }
  }

  Gate gate_;
  InFlight in_flight_;
  Clients clients_;
  RefusalProbe refusals_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<Prefetcher> prefetcher_;
  std::unique_ptr<StoreService> service_;
  int loop_threads_ = 2;
  std::unique_ptr<CallLoop> loop_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
};

class OneThreadTest : public StoreServiceTest {
 protected:
  OneThreadTest() { loop_threads_ = 1; }
};

// Its one thread reads from the drive only while nobody else is there.
TEST_F(OneThreadTest, RowsInMemoryAreServedWhileTheDriveHangs) {
  MakeWarm(0);
  const auto stream = client_->OpenStream();  // open, and so somebody
  ASSERT_TRUE(stream.ok()) << stream.status();
  Call known(0);
  ASSERT_TRUE((*stream)->Send(known.request).ok());
  ASSERT_TRUE((*stream)->Receive().ok());
  ServeWarmRowsWhileTheDriveHangs(kBatchThreads, kBatchThreads);
}

TEST_F(StoreServiceTest, RowsInMemoryAreServedWhileTheDriveHangs) {
  MakeWarm(0);
  // One on a thread of the loop, the others on the dispatcher's.
  ServeWarmRowsWhileTheDriveHangs(24, kBatchThreads + 1);
  LookUpWarmRows(0, 1);
}

TEST_F(StoreServiceTest, StreamsThatWaitForTheDriveHoldUpNobodyElse) {
  MakeWarm(0);
  gate_.Close();
  constexpr int kStreams = 4;
  constexpr int kCallsEach = 3;
  std::vector<std::unique_ptr<LookupStream>> streams;
  std::vector<std::vector<std::unique_ptr<Call>>> calls(kStreams);
  for (int s = 0; s < kStreams; ++s) {
    auto stream = client_->OpenStream();
    ASSERT_TRUE(stream.ok()) << stream.status();
    streams.push_back(*std::move(stream));
    for (int i = 0; i < kCallsEach; ++i) {
      calls[s].push_back(std::make_unique<Call>(1000 + 100 * (kCallsEach * s + i)));
      ASSERT_TRUE(streams[s]->Send(calls[s].back()->request).ok());
    }
    streams[s]->CloseSend();
  }
  EXPECT_TRUE(gate_.AwaitWaiting(kBatchThreads + 1));
  LookUpWarmRows(0, 200);
  gate_.Open();
  for (int s = 0; s < kStreams; ++s) {
    for (int i = 0; i < kCallsEach; ++i) {
      const auto event = streams[s]->Receive();
      ASSERT_TRUE(event.ok()) << event.status();
      EXPECT_EQ(event->sequence, static_cast<uint64_t>(i));
      EXPECT_TRUE(event->last);
      EXPECT_TRUE(event->status.ok()) << event->status;
      EXPECT_TRUE(calls[s][i]->RowsAreRight());
    }
  }
}

// The threads are held up at the drive when it comes, and nobody waits for it when they go on.
TEST_F(StoreServiceTest, WhoHasGivenUpIsNotReadFor) {
  gate_.Close();
  constexpr int kCalls = kBatchThreads + 2;  // one thread is for decode work, one is the loop's
  std::vector<std::unique_ptr<Call>> calls;
  absl::BlockingCounter answered(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    Call& call = *calls.emplace_back(std::make_unique<Call>(1000 + 100 * i));
    client_->LookupAsync(call.request, [&](const absl::StatusOr<LookupAnswer>& answer) {
      call.status = answer.status();
      answered.DecrementCount();
    });
  }
  ASSERT_TRUE(gate_.AwaitWaiting(kCalls));
  Call late(5000);
  late.request.deadline = std::chrono::milliseconds(100);
  EXPECT_EQ(client_->Lookup(late.request).status().code(), absl::StatusCode::kDeadlineExceeded);
  gate_.Open();
  answered.Wait();
  for (const auto& call : calls) EXPECT_TRUE(call->status.ok()) << call->status;
  Call next(6000);  // behind it
  ASSERT_TRUE(client_->Lookup(next.request).ok());
  for (int i = 0; i < 1000 && tables_->Snapshot()[0].failed_lookups == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const TableSnapshot stats = tables_->Snapshot()[0];
  EXPECT_EQ(stats.failed_lookups, 1u);
  EXPECT_EQ(stats.layers[0].tiers[2].hits, (kCalls + 1) * kRowsPerCall);
}

}  // namespace
}  // namespace engram
