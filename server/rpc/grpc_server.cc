#include "server/rpc/grpc_server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/call_loop.h"
#include "server/rpc/health_service.h"
#include "server/rpc/unix_listener.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// For the last answers to leave their sockets.
constexpr std::chrono::milliseconds kFlushTime{300};

class GrpcServerImpl final : public GrpcServer {
 public:
  ~GrpcServerImpl() override {
    if (server_ != nullptr) Shutdown(std::chrono::milliseconds(0));
  }

  absl::Status Start(const GrpcServerOptions& options, StoreService* store, AdminService* admin,
                     InFlight* in_flight) {
    store_ = store;
    in_flight_ = in_flight;
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_request_bytes));
    builder.SetMaxSendMessageSize(-1);  // the answer's limit is checked before it is gathered
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
    // Two daemons on one TCP port would share its callers at random.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    std::vector<int> ports(options.listen.size(), 0);
    listener_ = std::make_unique<UnixListener>(options.clients);
    for (size_t i = 0; i < options.listen.size(); ++i) {
      absl::string_view path = options.listen[i];
      if (absl::ConsumePrefix(&path, "unix:")) {
        ENGRAM_RETURN_IF_ERROR(listener_->Listen(std::string(path)));
        addresses_.push_back(options.listen[i]);
      } else {
        builder.AddListeningPort(options.listen[i], grpc::InsecureServerCredentials(), &ports[i]);
      }
    }
    builder.RegisterService(store->service());
    builder.RegisterService(admin->service());
    builder.RegisterService(health_->service());
    loop_ = std::make_unique<CallLoop>(builder.AddCompletionQueue(),
                                       CallLoop::ThreadsFor(std::thread::hardware_concurrency()));
    server_ = builder.BuildAndStart();
    for (size_t i = 0; i < options.listen.size(); ++i) {
      if (absl::StartsWith(options.listen[i], "unix:")) continue;
      ENGRAM_RETURN_IF_ERROR(Bound(options.listen[i], ports[i]));
    }
    if (server_ == nullptr) return absl::UnavailableError("the gRPC server does not start");
    store->Accept(*loop_);
    health_->Accept(*loop_);
    loop_->Start();
    return listener_->Start(server_.get());
  }

  const std::vector<std::string>& addresses() const override { return addresses_; }

  void Shutdown(std::chrono::milliseconds patience) override {
    if (server_ == nullptr) return;
    health_->Drain();
    in_flight_->Close();
    store_->Drain();
    in_flight_->WaitUntilIdle(patience);
    listener_->Stop();
    // What is left is over its time, or an answer on its way out, or an idle connection.
    server_->Shutdown(std::chrono::system_clock::now() + kFlushTime);
    server_->Wait();
    loop_->Stop();
    server_.reset();
  }

 private:
  absl::Status Bound(const std::string& address, int port) {
    if (port == 0) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address, ": it is in use, or no address of this host"));
    }
    addresses_.push_back(absl::StrCat(address.substr(0, address.rfind(':')), ":", port));
    return absl::OkStatus();
  }

  StoreService* store_ = nullptr;
  InFlight* in_flight_ = nullptr;
  const std::unique_ptr<HealthService> health_ = HealthService::Create();
  std::unique_ptr<CallLoop> loop_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<UnixListener> listener_;
  std::vector<std::string> addresses_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              StoreService* store,
                                                              AdminService* admin,
                                                              InFlight* in_flight) {
  // Debian builds Abseil with its checks: each lock of gRPC goes through a graph of all locks,
  // which has a lock of its own, and a cycle that is found there ends the process.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // One reference that is never given back: the last grpc_shutdown of a process joins a thread
  // that may sleep in a poll for 10 s after its last large answer (tcp_posix's backup poller).
  grpc_init();
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto server = std::make_unique<GrpcServerImpl>();
  ENGRAM_RETURN_IF_ERROR(server->Start(options, store, admin, in_flight));
  return std::unique_ptr<GrpcServer>(std::move(server));
}

}  // namespace engram
