#include "server/rpc/call_loop.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace engram {
namespace {

// The next request of a caller in a loop arrives within this time, a decoded token's does not.
constexpr std::chrono::microseconds kAwake{150};
// After a thread has stayed awake and nothing arrived, it sleeps before so many events.
constexpr int kSleeps = 128;
// Calls of one method that gRPC may hand over before it is asked for more.
constexpr int kExpected = 16;

}  // namespace

void UnaryCall::Expect(const Method& method) {
  auto* call = new UnaryCall(method);  // deletes itself
  grpc::ServerCompletionQueue* const queue = method.loop->queue_.get();
  call->context_.AsyncNotifyWhenDone(static_cast<CallEvent*>(&call->ended_));
  method.request(&call->context_, &call->request_, &call->writer_, queue, queue,
                 static_cast<CallEvent*>(&call->accepted_));
}

void UnaryCall::OnAccepted(bool ok) {
  if (!ok) {  // the server is shutting down; gRPC does not report the end of what never arrived
    delete this;
    return;
  }
  method_.loop->Ref();
  Expect(method_);
  method_.handler(*this);
}

void UnaryCall::OnEnded(bool /*ok*/) {
  if (context_.IsCancelled()) cancelled_.store(true, std::memory_order_relaxed);
  Unref();
}

void UnaryCall::Finish(const grpc::Status& status) {
  CallEvent* const event = &answered_;
  if (status.ok()) {
    writer_.Finish(response_, status, event);
  } else {
    writer_.FinishWithError(status, event);
  }
}

void UnaryCall::Unref() {
  if (refs_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  CallLoop& loop = *method_.loop;
  delete this;
  loop.Unref();
}

void BidiCall::Expect(const Method& method) {
  auto* call = new BidiCall(method);  // deletes itself
  grpc::ServerCompletionQueue* const queue = method.loop->queue_.get();
  call->context_.AsyncNotifyWhenDone(static_cast<CallEvent*>(&call->ended_));
  method.request(&call->context_, &call->stream_, queue, queue,
                 static_cast<CallEvent*>(&call->accepted_));
}

void BidiCall::OnAccepted(bool ok) {
  if (!ok) {  // the server is shutting down; gRPC does not report the end of what never arrived
    delete this;
    return;
  }
  method_.loop->Ref();
  Expect(method_);
  method_.handler(*this);
  // The end has a reference and is not reported before this, so the call is still there.
  if (!SetFirst(State::kHandled)) ReportEnd();
}

void BidiCall::OnEnded(bool /*ok*/) {
  if (!SetFirst(State::kEnded)) ReportEnd();
}

// Sets `state`, unless the other one is set already; returns whether it did. The call may be gone
// after true.
bool BidiCall::SetFirst(State state) {
  State open = State::kOpen;
  // The first one's release pairs with the second one's acquire, in the exchange that fails.
  return state_.compare_exchange_strong(open, state, std::memory_order_acq_rel,
                                        std::memory_order_acquire);
}

void BidiCall::ReportEnd() {
  if (context_.IsCancelled()) reactor_->OnCancel();
  Unref();
}

void BidiCall::StartRead(grpc::ByteBuffer* message) {
  refs_.fetch_add(1, std::memory_order_relaxed);
  stream_.Read(message, static_cast<CallEvent*>(&read_));
}

void BidiCall::StartWrite(const grpc::ByteBuffer* message) {
  refs_.fetch_add(1, std::memory_order_relaxed);
  stream_.Write(*message, static_cast<CallEvent*>(&written_));
}

void BidiCall::Finish(const grpc::Status& status) {
  stream_.Finish(status, static_cast<CallEvent*>(&finished_));
}

void BidiCall::ReadDone(bool ok) {
  reactor_->OnReadDone(ok);
  Unref();
}

void BidiCall::WriteDone(bool ok) {
  reactor_->OnWriteDone(ok);
  Unref();
}

void BidiCall::FinishDone(bool /*ok*/) { Unref(); }

void BidiCall::Unref() {
  if (refs_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  CallLoop& loop = *method_.loop;
  reactor_->OnDone();
  delete this;
  loop.Unref();
}

CallLoop::CallLoop(std::unique_ptr<grpc::ServerCompletionQueue> queue, int threads)
    : queue_(std::move(queue)), count_(threads) {}

CallLoop::~CallLoop() {
  if (!threads_.empty()) Stop();
}

int CallLoop::ThreadsFor(unsigned cores) { return std::clamp(static_cast<int>(cores / 2), 1, 16); }

void CallLoop::AcceptUnary(UnaryCall::Request request, UnaryCall::Handler handler) {
  unary_.push_back(std::make_unique<UnaryCall::Method>(
      UnaryCall::Method{this, std::move(request), std::move(handler)}));
  for (int i = 0; i < kExpected; ++i) UnaryCall::Expect(*unary_.back());
}

void CallLoop::AcceptStreams(BidiCall::Request request, BidiCall::Handler handler) {
  bidi_.push_back(std::make_unique<BidiCall::Method>(
      BidiCall::Method{this, std::move(request), std::move(handler)}));
  for (int i = 0; i < kExpected; ++i) BidiCall::Expect(*bidi_.back());
}

void CallLoop::Start() {
  for (int i = 0; i < count_; ++i) threads_.emplace_back([this] { Run(); });
}

void CallLoop::Unref() {
  // Release: pairs with the acquire load in Stop, which then sees what the calls did.
  if (calls_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  MutexLock lock(mutex_);
  idle_.NotifyAll();
}

void CallLoop::Stop() {
  {
    MutexLock lock(mutex_);
    while (calls_.load(std::memory_order_acquire) > 0) idle_.Wait(mutex_);
  }
  queue_->Shutdown();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void CallLoop::Run() {
  void* tag = nullptr;
  bool ok = false;
  for (int sleeps = 0; Next(sleeps, &tag, &ok);) static_cast<CallEvent*>(tag)->Done(ok);
}

// False once the queue is shut down and empty.
bool CallLoop::Next(int& sleeps, void** tag, bool* ok) {
  if (sleeps > 0) {
    --sleeps;
    return queue_->Next(tag, ok);
  }
  if (awake_.exchange(true, std::memory_order_relaxed)) return queue_->Next(tag, ok);
  const auto asleep = std::chrono::steady_clock::now() + kAwake;
  grpc::CompletionQueue::NextStatus next{};
  while ((next = queue_->AsyncNext(tag, ok, gpr_inf_past(GPR_CLOCK_REALTIME))) ==
             grpc::CompletionQueue::TIMEOUT &&
         std::chrono::steady_clock::now() < asleep) {
    ::sched_yield();
  }
  awake_.store(false, std::memory_order_relaxed);
  if (next == grpc::CompletionQueue::GOT_EVENT) return true;
  if (next == grpc::CompletionQueue::SHUTDOWN) return false;
  sleeps = kSleeps;
  return queue_->Next(tag, ok);
}

}  // namespace engram
