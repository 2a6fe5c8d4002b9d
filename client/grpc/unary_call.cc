#include "client/grpc/unary_call.h"

#include <grpcpp/alarm.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>
#include <sched.h>

#include <algorithm>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "client/grpc/channel.h"
#include "client/grpc/wire_status.h"
#include "storage/base/mutex.h"

namespace engram {
namespace {

using Clock = std::chrono::system_clock;

constexpr std::chrono::milliseconds kFirstPause{10};
constexpr std::chrono::milliseconds kLongestPause{250};
// A call stays awake for so long. A thousand rows out of memory are answered within this time, rows
// from the drive are not.
constexpr std::chrono::microseconds kAwake{400};
// Calls that go to sleep at once after one that has stayed awake in vain.
constexpr int kSleepers = 128;

// When the time of a repeated call runs out in the middle of an attempt, what it is told is why
// there was more than one.
class Outcome {
 public:
  // Returns whether to try again, if there is time.
  bool Add(const grpc::Status& status) {
    // CANCELLED, where nobody here has cancelled: the call came to a daemon that was ending.
    const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                       status.error_code() == grpc::StatusCode::CANCELLED;
    if (!again_ || status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
      status_ = StatusFromGrpc(status);
    }
    again_ = again;
    return again;
  }
  const absl::Status& status() const { return status_; }

 private:
  bool again_ = false;
  absl::Status status_;
};

grpc::internal::RpcMethod Unary(const char* method) {
  return grpc::internal::RpcMethod(method, grpc::internal::RpcMethod::NORMAL_RPC);
}

// Waits for the one event of `queue`, awake at first. Returns whether that was worth it.
bool WaitAwake(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  const auto asleep = std::chrono::steady_clock::now() + kAwake;
  while (queue.AsyncNext(&tag, &ok, gpr_inf_past(GPR_CLOCK_REALTIME)) ==
         grpc::CompletionQueue::TIMEOUT) {
    ::sched_yield();
    if (std::chrono::steady_clock::now() < asleep) continue;
    // The answer takes longer, or others needed the core.
    queue.Next(&tag, &ok);
    return false;
  }
  return true;
}

// As grpc::internal::BlockingUnaryCall but for the way it waits: a thread that sleeps has to be
// woken twice a call. Sets `*worth_it` as WaitAwake does.
grpc::Status CallAwake(const std::shared_ptr<grpc::Channel>& channel, const char* method,
                       grpc::ClientContext* context, const grpc::ByteBuffer& request,
                       grpc::ByteBuffer* answer, bool* worth_it) {
  grpc::CompletionQueue queue;
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> raw(channel);
  const auto call = raw.PrepareUnaryCall(context, method, request, &queue);
  grpc::Status status;
  call->StartCall();
  call->Finish(answer, &status, nullptr);
  *worth_it = WaitAwake(queue);
  queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
  if (!status.ok() || answer->Valid()) return status;
  return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "an answer without a message");
}

// Waits until then, or until there is a connection again. Somebody has to look at the channel's
// sockets while it connects: otherwise gRPC does so only every five seconds, and a restarted daemon
// would be found as late as that.
void Pause(grpc::Channel& channel, Clock::time_point until) {
  if (channel.GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_READY) {
    std::this_thread::sleep_until(until);
  } else {
    channel.WaitForConnected(until);
  }
}

}  // namespace

// The asynchronous calls under way. Outlives the caller while one of them is.
struct UnaryCaller::Registry {
  Mutex mutex;
  CondVar empty;
  bool closing ABSL_GUARDED_BY(mutex) = false;
  std::unordered_set<std::shared_ptr<AsyncCall>> calls ABSL_GUARDED_BY(mutex);
};

// One asynchronous call: attempt, pause, attempt … done. At any time exactly one thread or pending
// callback drives it; Cancel may come from another thread.
class UnaryCaller::AsyncCall : public std::enable_shared_from_this<AsyncCall> {
 public:
  AsyncCall(std::shared_ptr<grpc::Channel> channel, std::shared_ptr<Registry> registry,
            const char* method, const grpc::ByteBuffer& request, Clock::time_point deadline,
            Done done)
      : channel_(std::move(channel)),
        registry_(std::move(registry)),
        method_(method),
        request_(request),
        deadline_(deadline),
        done_(std::move(done)) {}

  void Attempt() {
    grpc::ClientContext* context = nullptr;
    {
      MutexLock lock(mutex_);
      context_ = std::make_unique<grpc::ClientContext>();
      context_->set_deadline(deadline_);
      if (cancelled_) context_->TryCancel();
      context = context_.get();
    }
    answer_.Clear();
    grpc::internal::CallbackUnaryCall(
        channel_.get(), Unary(method_), context, &request_, &answer_,
        [self = shared_from_this()](const grpc::Status& status) { self->Attempted(status); });
  }

  // Instead of Attempt: the client is going away.
  void Refuse() { done_(absl::CancelledError("the client is being destroyed"), &answer_); }

  void Cancel() {
    MutexLock lock(mutex_);
    cancelled_ = true;
    if (context_ != nullptr) context_->TryCancel();
    if (pause_over_ != nullptr) pause_over_->Cancel();
  }

 private:
  void Attempted(const grpc::Status& status) {
    if (outcome_.Add(status) && Pause()) return;
    {
      // Both hold the channel, whose last reference must not be dropped here: gRPC would wait for
      // this very thread.
      MutexLock lock(mutex_);
      context_ = nullptr;
      channel_ = nullptr;
      // Its callback, kept by gRPC for as long as the alarm lives, holds this object.
      pause_over_ = nullptr;
    }
    done_(outcome_.status(), &answer_);
    done_ = nullptr;
    MutexLock lock(registry_->mutex);
    registry_->calls.erase(shared_from_this());
    registry_->empty.NotifyAll();
  }

  // Returns false when no time is left for another attempt.
  bool Pause() {
    MutexLock lock(mutex_);
    const Clock::time_point next = Clock::now() + pause_;
    if (cancelled_ || next >= deadline_) return false;
    pause_ = std::min(2 * pause_, kLongestPause);
    pause_over_ = std::make_unique<grpc::Alarm>();
    pause_over_->Set(next, [self = shared_from_this()](bool) { self->Attempt(); });
    return true;
  }

  std::shared_ptr<grpc::Channel> channel_;
  const std::shared_ptr<Registry> registry_;
  const char* const method_;
  const grpc::ByteBuffer request_;
  const Clock::time_point deadline_;
  Done done_;
  Outcome outcome_;
  grpc::ByteBuffer answer_;
  std::chrono::milliseconds pause_ = kFirstPause;

  Mutex mutex_;  // between the driving thread and Cancel
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::ClientContext> context_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> pause_over_ ABSL_GUARDED_BY(mutex_);
};

UnaryCaller::UnaryCaller(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)), registry_(std::make_shared<Registry>()) {}

UnaryCaller::~UnaryCaller() {
  std::vector<std::shared_ptr<AsyncCall>> calls;
  {
    MutexLock lock(registry_->mutex);
    registry_->closing = true;
    calls.assign(registry_->calls.begin(), registry_->calls.end());
  }
  for (const auto& call : calls) call->Cancel();
  MutexLock lock(registry_->mutex);
  while (!registry_->calls.empty()) registry_->empty.Wait(registry_->mutex);
}

absl::Status UnaryCaller::Call(const char* method, const grpc::ByteBuffer& request,
                               std::chrono::milliseconds timeout, grpc::ByteBuffer* answer) {
  const Clock::time_point deadline = DeadlineAfter(timeout);
  Outcome outcome;
  for (std::chrono::milliseconds pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    answer->Clear();
    const grpc::Status status = CallOnce(method, &context, request, answer);
    if (!outcome.Add(status) || Clock::now() + pause >= deadline) return outcome.status();
    Pause(*channel_, Clock::now() + pause);
  }
}

grpc::Status UnaryCaller::CallOnce(const char* method, grpc::ClientContext* context,
                                   const grpc::ByteBuffer& request, grpc::ByteBuffer* answer) {
  const int sleepers = sleepers_.load(std::memory_order_relaxed);
  if (sleepers > 0) {
    sleepers_.store(sleepers - 1, std::memory_order_relaxed);
    return grpc::internal::BlockingUnaryCall(channel_.get(), Unary(method), context, request,
                                             answer);
  }
  bool worth_it = false;
  const grpc::Status status = CallAwake(channel_, method, context, request, answer, &worth_it);
  if (!worth_it) sleepers_.store(kSleepers, std::memory_order_relaxed);
  return status;
}

void UnaryCaller::CallAsync(const char* method, const grpc::ByteBuffer& request,
                            std::chrono::milliseconds timeout, Done done) {
  auto call = std::make_shared<AsyncCall>(channel_, registry_, method, request,
                                          DeadlineAfter(timeout), std::move(done));
  bool closing = false;
  {
    MutexLock lock(registry_->mutex);
    closing = registry_->closing;
    if (!closing) registry_->calls.insert(call);
  }
  if (closing) return call->Refuse();
  call->Attempt();
}

}  // namespace engram
