#include "client/grpc/stream_watch.h"

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>

#include <algorithm>

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPeriod{100};

}  // namespace

std::shared_ptr<StreamWatch> StreamWatch::Start(grpc::ClientContext* context) {
  std::shared_ptr<StreamWatch> watch(new StreamWatch(context));
  MutexLock lock(watch->mutex_);
  watch->Arm();
  return watch;
}

StreamWatch::StreamWatch(grpc::ClientContext* context) : context_(context) {}
StreamWatch::~StreamWatch() = default;

void StreamWatch::Limit(Operation operation, std::chrono::milliseconds timeout) {
  constexpr std::chrono::milliseconds kYear = std::chrono::hours(24 * 365);
  MutexLock lock(mutex_);
  due_[static_cast<size_t>(operation)] = Clock::now() + std::min(timeout, kYear);
}

void StreamWatch::Over(Operation operation) {
  MutexLock lock(mutex_);
  due_[static_cast<size_t>(operation)] = std::nullopt;
}

bool StreamWatch::expired() {
  MutexLock lock(mutex_);
  return expired_;
}

void StreamWatch::Stop() {
  MutexLock lock(mutex_);
  context_ = nullptr;
  // Cancels it; its callback, kept by gRPC for as long as the alarm lives, holds this object.
  alarm_ = nullptr;
}

void StreamWatch::Arm() {
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(std::chrono::system_clock::now() + kPeriod,
              [self = shared_from_this()](bool) { self->Look(); });
}

void StreamWatch::Look() {
  MutexLock lock(mutex_);
  if (context_ == nullptr) return;
  const Clock::time_point now = Clock::now();
  for (const auto& due : due_) expired_ = expired_ || (due.has_value() && now >= *due);
  if (expired_) return context_->TryCancel();
  Arm();
}

}  // namespace engram
