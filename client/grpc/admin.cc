#include "client/grpc/admin.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/grpc/channel.h"
#include "client/grpc/wire_status.h"
#include "engram/v1/admin.grpc.pb.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr std::chrono::seconds kQuick{30};
constexpr std::chrono::minutes kSlow{10};
constexpr std::chrono::milliseconds kCancelPeriod{100};
constexpr size_t kMaxAnswerBytes = size_t{64} << 20;

absl::Status FromAdmin(const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::UNIMPLEMENTED) return StatusFromGrpc(status);
  return absl::UnimplementedError(
      absl::StrCat(status.error_message().empty() ? "not served here" : status.error_message(),
                   " (admin calls are served on Unix sockets; on TCP only with admin_tcp: true)"));
}

// One call with a completion queue of its own, so that the calling thread can look at `cancel`
// while it waits.
class Call {
 public:
  explicit Call(AdminClient::Cancel cancel) : cancel_(cancel) {}

  // gRPC wants a queue to be drained before it goes.
  ~Call() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  grpc::ClientContext* context() { return &context_; }
  grpc::CompletionQueue* queue() { return &queue_; }
  void* tag() { return this; }

  // Waits for the one operation under way and returns whether it succeeded.
  bool Wait() {
    void* tag = nullptr;
    bool ok = false;
    while (true) {
      const auto next = queue_.AsyncNext(&tag, &ok, DeadlineAfter(kCancelPeriod));
      if (next != grpc::CompletionQueue::TIMEOUT) return ok;
      // Cancelled, the operation fails, and its event ends the loop.
      if (cancel_ != nullptr && cancel_->load(std::memory_order_relaxed)) context_.TryCancel();
    }
  }

 private:
  const AdminClient::Cancel cancel_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
};

class GrpcAdminClient : public AdminClient {
 public:
  explicit GrpcAdminClient(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::EngramAdmin::NewStub(std::move(channel))) {}

  absl::StatusOr<v1::LoadProgress> Load(
      const v1::LoadRequest& request,
      const std::function<void(const v1::LoadProgress&)>& on_progress, Cancel cancel) override {
    return Follow<v1::LoadProgress>(&v1::EngramAdmin::Stub::AsyncLoad, request, on_progress,
                                    cancel);
  }

  absl::StatusOr<v1::VerifyProgress> Verify(
      const v1::VerifyRequest& request,
      const std::function<void(const v1::VerifyProgress&)>& on_progress, Cancel cancel) override {
    return Follow<v1::VerifyProgress>(&v1::EngramAdmin::Stub::AsyncVerify, request, on_progress,
                                      cancel);
  }

  absl::StatusOr<v1::ListResponse> List(Cancel cancel) override {
    return Ask<v1::ListResponse>(&v1::EngramAdmin::Stub::AsyncList, v1::ListRequest(), kQuick,
                                 cancel);
  }

  absl::StatusOr<v1::StatsResponse> Stats(Cancel cancel) override {
    return Ask<v1::StatsResponse>(&v1::EngramAdmin::Stub::AsyncStats, v1::StatsRequest(), kQuick,
                                  cancel);
  }

  absl::Status Activate(const v1::ActivateRequest& request, Cancel cancel) override {
    return Ask<v1::ActivateResponse>(&v1::EngramAdmin::Stub::AsyncActivate, request, kSlow, cancel)
        .status();
  }

  absl::StatusOr<v1::DropTableResponse> DropTable(const v1::DropTableRequest& request,
                                                  Cancel cancel) override {
    return Ask<v1::DropTableResponse>(&v1::EngramAdmin::Stub::AsyncDropTable, request, kSlow,
                                      cancel);
  }

  absl::Status DropVersion(const v1::DropVersionRequest& request, Cancel cancel) override {
    return Ask<v1::DropVersionResponse>(&v1::EngramAdmin::Stub::AsyncDropVersion, request, kSlow,
                                        cancel)
        .status();
  }

  absl::StatusOr<v1::SetDramBudgetResponse> SetDramBudget(const v1::SetDramBudgetRequest& request,
                                                          Cancel cancel) override {
    return Ask<v1::SetDramBudgetResponse>(&v1::EngramAdmin::Stub::AsyncSetDramBudget, request,
                                          kSlow, cancel);
  }

 private:
  template <typename Response, typename Request>
  absl::StatusOr<Response> Ask(
      std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> (v1::EngramAdmin::Stub::*method)(
          grpc::ClientContext*, const Request&, grpc::CompletionQueue*),
      const Request& request, std::chrono::milliseconds timeout, Cancel cancel) {
    Call call(cancel);
    call.context()->set_deadline(DeadlineAfter(timeout));
    const auto reader = (stub_.get()->*method)(call.context(), request, call.queue());
    Response response;
    grpc::Status status;
    reader->Finish(&response, &status, call.tag());
    call.Wait();
    if (!status.ok()) return FromAdmin(status);
    return response;
  }

  template <typename Progress, typename Request>
  absl::StatusOr<Progress> Follow(
      std::unique_ptr<grpc::ClientAsyncReader<Progress>> (v1::EngramAdmin::Stub::*method)(
          grpc::ClientContext*, const Request&, grpc::CompletionQueue*, void*),
      const Request& request, const std::function<void(const Progress&)>& on_progress,
      Cancel cancel) {
    Call call(cancel);
    const auto reader = (stub_.get()->*method)(call.context(), request, call.queue(), call.tag());
    Progress progress;
    bool more = call.Wait();  // begun
    while (more) {
      Progress next;
      reader->Read(&next, call.tag());
      more = call.Wait();
      if (!more) break;
      progress = std::move(next);
      if (on_progress) on_progress(progress);
    }
    grpc::Status status;
    reader->Finish(&status, call.tag());
    call.Wait();
    if (!status.ok()) return FromAdmin(status);
    if (!progress.done()) {
      return absl::InternalError("engramd ended its report before it said that it was done");
    }
    return progress;
  }

  const std::unique_ptr<v1::EngramAdmin::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminClient>> AdminClient::Connect(
    const std::string& target, std::chrono::milliseconds connect_timeout) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                          OpenChannel(target, kMaxAnswerBytes, connect_timeout));
  return std::make_unique<GrpcAdminClient>(std::move(channel));
}

}  // namespace engram
