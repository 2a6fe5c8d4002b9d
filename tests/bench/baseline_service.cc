#include "tests/bench/baseline_service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/support/byte_buffer.h>
#include <malloc.h>
#include <signal.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "tests/bench/bench.grpc.pb.h"
#include "tests/bench/synthetic_checkpoint.h"

namespace engram::bench {
namespace {

constexpr char kReady[] = "baseline: ready";
constexpr char kMethod[] = "/engram.bench.Baseline/Rows";
constexpr std::chrono::seconds kPatience{30};

void Answer(const RowsRequest& request, RowsResponse* response) {
  response->mutable_rows()->resize(request.ids().size() / sizeof(uint32_t) * kRowBytes);
}

class SyncService final : public Baseline::Service {
  grpc::Status Rows(grpc::ServerContext* /*context*/, const RowsRequest* request,
                    RowsResponse* response) override {
    Answer(*request, response);
    return grpc::Status::OK;
  }
};

class CallbackService final : public Baseline::WithCallbackMethod_Rows<Baseline::Service> {
  grpc::ServerUnaryReactor* Rows(grpc::CallbackServerContext* context, const RowsRequest* request,
                                 RowsResponse* response) override {
    Answer(*request, response);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// Requests are the ids alone, answers the rows alone.
class RawService final : public Baseline::WithRawCallbackMethod_Rows<Baseline::Service> {
  grpc::ServerUnaryReactor* Rows(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override {
    *response = Constant(request->Length() / sizeof(uint32_t) * kRowBytes);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ByteBuffer Constant(size_t bytes) {
    MutexLock lock(mutex_);
    grpc::Slice& slice = slices_[bytes];
    if (slice.size() != bytes) slice = grpc::Slice(std::string(bytes, 'r'));
    return grpc::ByteBuffer(&slice, 1);
  }

  Mutex mutex_;
  std::map<size_t, grpc::Slice> slices_ ABSL_GUARDED_BY(mutex_);
};

std::unique_ptr<grpc::Service> MakeService(BaselineKind kind) {
  switch (kind) {
    case BaselineKind::kSync:
    case BaselineKind::kTuned:
      return std::make_unique<SyncService>();
    case BaselineKind::kCallback:
      return std::make_unique<CallbackService>();
    case BaselineKind::kRaw:
      return std::make_unique<RawService>();
  }
  return nullptr;
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("baseline call: ", status.error_message()));
}

absl::Status CheckSize(size_t got, size_t rows) {
  if (got == rows * kRowBytes) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the baseline gave ", got, " bytes for ", rows, " rows"));
}

class GeneratedClient final : public BaselineProcess {
 public:
  GeneratedClient(std::unique_ptr<ChildProcess> process, std::shared_ptr<grpc::Channel> channel)
      : process_(std::move(process)), stub_(Baseline::NewStub(std::move(channel))) {}

  absl::Status Call(absl::Span<const uint32_t> ids) override {
    grpc::ClientContext context;
    request_.set_ids(ids.data(), ids.size() * sizeof(uint32_t));
    ENGRAM_RETURN_IF_ERROR(FromGrpc(stub_->Rows(&context, request_, &response_)));
    return CheckSize(response_.rows().size(), ids.size());
  }

 private:
  const std::unique_ptr<ChildProcess> process_;
  const std::unique_ptr<Baseline::Stub> stub_;
  // Kept from call to call, so that their memory is allocated once.
  RowsRequest request_;
  RowsResponse response_;
};

class RawClient final : public BaselineProcess {
 public:
  RawClient(std::unique_ptr<ChildProcess> process, std::shared_ptr<grpc::Channel> channel)
      : process_(std::move(process)), channel_(std::move(channel)) {}

  absl::Status Call(absl::Span<const uint32_t> ids) override {
    const grpc::Slice slice(ids.data(), ids.size() * sizeof(uint32_t));
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    const grpc::internal::RpcMethod method(kMethod, grpc::internal::RpcMethod::NORMAL_RPC);
    ENGRAM_RETURN_IF_ERROR(FromGrpc(
        grpc::internal::BlockingUnaryCall(channel_.get(), method, &context, request, &response)));
    return CheckSize(response.Length(), ids.size());
  }

 private:
  const std::unique_ptr<ChildProcess> process_;
  const std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace

const char* BaselineName(BaselineKind kind) {
  switch (kind) {
    case BaselineKind::kSync:
      return "sync";
    case BaselineKind::kCallback:
      return "callback";
    case BaselineKind::kTuned:
      return "tuned";
    case BaselineKind::kRaw:
      return "raw";
  }
  return "";
}

absl::StatusOr<BaselineKind> ParseBaselineKind(const std::string& name) {
  for (const BaselineKind kind : kAllBaselines) {
    if (name == BaselineName(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", name, "' is not sync, callback, tuned or raw"));
}

int ServeBaseline(BaselineKind kind, const std::string& address) {
  if (kind == BaselineKind::kTuned || kind == BaselineKind::kRaw) {  // as engramd does
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
  }
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const std::unique_ptr<grpc::Service> service = MakeService(kind);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service.get());
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::cerr << "baseline: cannot listen on " << address << "\n";
    return 1;
  }
  std::cout << kReady << std::endl;
  int signal = 0;
  sigwait(&signals, &signal);
  // Not Shutdown: a synchronous server may take up to 10 s over it, and nothing is left to save.
  std::_Exit(0);
}

absl::StatusOr<std::unique_ptr<BaselineProcess>> BaselineProcess::Start(
    const ScratchDirectory& scratch, BaselineKind kind) {
  const std::string name = BaselineName(kind);
  ENGRAM_ASSIGN_OR_RETURN(const std::string program, SiblingProgram("engram_bench"));
  ENGRAM_ASSIGN_OR_RETURN(const std::string address, scratch.SocketAddress(name));
  ENGRAM_ASSIGN_OR_RETURN(
      auto process, ChildProcess::Start({program, "--serve-baseline", name, "--listen", address},
                                        scratch.File(name + ".log")));
  ENGRAM_RETURN_IF_ERROR(process->WaitForLine(kReady, kPatience));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kPatience)) {
    return absl::UnavailableError(absl::StrCat("the baseline does not answer on ", address));
  }
  if (kind == BaselineKind::kRaw) {
    return std::make_unique<RawClient>(std::move(process), std::move(channel));
  }
  return std::make_unique<GeneratedClient>(std::move(process), std::move(channel));
}

}  // namespace engram::bench
