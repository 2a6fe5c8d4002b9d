#include "server/rpc/health_service.h"

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/impl/codegen/rpc_service_method.h>
#include <grpcpp/impl/codegen/service_type.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/rpc/call_loop.h"
#include "server/rpc/wire.h"
#include "storage/base/mutex.h"

namespace engram {
namespace {

using grpc::internal::RpcMethod;
using grpc::internal::RpcServiceMethod;

// In the order in which they are added.
enum Method { kCheck, kWatch };

constexpr std::array<const char*, 3> kServices = {"", "engram.v1.EngramStore",
                                                  "engram.v1.EngramAdmin"};

// HealthCheckResponse.ServingStatus.
enum class Serving { kYes = 1, kNo = 2, kUnknownService = 3 };

// HealthCheckRequest { string service = 1; } has the bytes of a StringValue, and
// HealthCheckResponse { ServingStatus status = 1; } those of an Int32Value.
bool ReadService(const grpc::ByteBuffer& request, std::string* service) {
  google::protobuf::StringValue message;
  if (!Decode(request, message)) return false;
  *service = message.value();
  return true;
}
grpc::ByteBuffer AnswerOf(Serving serving) {
  google::protobuf::Int32Value message;
  message.set_value(static_cast<int>(serving));
  return Encode(message);
}

bool IsKnown(const std::string& service) {
  return std::find(kServices.begin(), kServices.end(), service) != kServices.end();
}

grpc::Status Unreadable() {
  return {grpc::StatusCode::INVALID_ARGUMENT,
          "the message cannot be read as grpc.health.v1.HealthCheckRequest"};
}

class HealthServiceImpl;

// One Watch: gets the status when it arrives, and once more when the daemon drains, and then ends.
// Lives until OnDone.
class Watcher final : public BidiCall::Reactor {
 public:
  Watcher(HealthServiceImpl* health, BidiCall* call) : health_(health), call_(call) {}

  void Begin() { call_->StartRead(&request_); }

  void Drain() {
    MutexLock lock(mutex_);
    draining_ = true;
    if (asked_) Advance();
  }

  void OnReadDone(bool ok) override {
    std::string service;
    const bool good = ok && ReadService(request_, &service);
    {
      MutexLock lock(mutex_);
      asked_ = good;
      if (good) {
        known_ = IsKnown(service);
        Advance();
        return;
      }
      if (finished_) return;
      finished_ = true;
    }
    call_->Finish(Unreadable());
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) cancelled_ = true;
    Advance();
  }
  void OnCancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    if (asked_) {
      Advance();
    } else if (!finished_) {  // OnReadDone does not come to it
      finished_ = true;
      call_->Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override;

 private:
  // Starts the next operation. (Its event needs the lock, so the call outlives this.)
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    const Serving now = !known_     ? Serving::kUnknownService
                        : draining_ ? Serving::kNo
                                    : Serving::kYes;
    if (!cancelled_ && (!sent_ || now != last_)) {
      sent_ = writing_ = true;
      last_ = now;
      answer_ = AnswerOf(now);
      call_->StartWrite(&answer_);
    } else if (cancelled_ || draining_) {
      finished_ = true;
      call_->Finish(
          cancelled_ ? grpc::Status::CANCELLED
                     : grpc::Status(grpc::StatusCode::UNAVAILABLE, "the daemon is shutting down"));
    }
  }

  HealthServiceImpl* const health_;
  BidiCall* const call_;
  grpc::ByteBuffer request_;  // gRPC's until OnReadDone
  Mutex mutex_;
  grpc::ByteBuffer answer_ ABSL_GUARDED_BY(mutex_);
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool known_ ABSL_GUARDED_BY(mutex_) = false;
  bool sent_ ABSL_GUARDED_BY(mutex_) = false;
  Serving last_ ABSL_GUARDED_BY(mutex_) = Serving::kNo;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

class HealthServiceImpl final : public HealthService, private grpc::Service {
 public:
  HealthServiceImpl() {
    // Without a handler a method is one of asynchronous calls.
    AddMethod(new RpcServiceMethod("/grpc.health.v1.Health/Check", RpcMethod::NORMAL_RPC, nullptr));
    AddMethod(
        new RpcServiceMethod("/grpc.health.v1.Health/Watch", RpcMethod::BIDI_STREAMING, nullptr));
  }

  grpc::Service* service() override { return this; }

  void Accept(CallLoop& loop) override {
    loop.AcceptUnary([this](auto... call) { RequestAsyncUnary(kCheck, call...); },
                     [this](UnaryCall& call) { call.Finish(Check(call)); });
    loop.AcceptStreams([this](auto... call) { RequestAsyncBidiStreaming(kWatch, call...); },
                       [this](BidiCall& call) {
                         auto* watcher = new Watcher(this, &call);  // deletes itself
                         call.SetReactor(watcher);
                         Add(watcher);
                         watcher->Begin();
                       });
  }

  void Drain() override {
    MutexLock lock(mutex_);
    draining_ = true;
    // A watcher removes itself before it is deleted, so those in the set are alive.
    for (Watcher* watcher : watchers_) watcher->Drain();
  }

  void Remove(Watcher* watcher) {
    MutexLock lock(mutex_);
    watchers_.erase(watcher);
  }

 private:
  grpc::Status Check(UnaryCall& call) {
    std::string service;
    if (!ReadService(call.request(), &service)) return Unreadable();
    if (!IsKnown(service)) {
      return {grpc::StatusCode::NOT_FOUND,
              absl::StrCat("there is no service '", service, "' here")};
    }
    MutexLock lock(mutex_);
    call.response() = AnswerOf(draining_ ? Serving::kNo : Serving::kYes);
    return grpc::Status::OK;
  }

  void Add(Watcher* watcher) {
    MutexLock lock(mutex_);
    watchers_.insert(watcher);
    if (draining_) watcher->Drain();
  }

  Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

void Watcher::OnDone() {
  health_->Remove(this);
  delete this;
}

}  // namespace

std::unique_ptr<HealthService> HealthService::Create() {
  return std::make_unique<HealthServiceImpl>();
}

}  // namespace engram
