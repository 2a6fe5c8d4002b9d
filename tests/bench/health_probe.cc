#include "tests/bench/health_probe.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {
namespace {

constexpr std::chrono::seconds kPatience{10};
constexpr char kMethod[] = "/grpc.health.v1.Health/Check";
// HealthCheckRequest {}: the server as a whole. HealthCheckResponse { status = 1: SERVING = 1 }.
constexpr char kServing[] = "\x08\x01";

class GrpcHealthProbe final : public HealthProbe {
 public:
  explicit GrpcHealthProbe(std::shared_ptr<grpc::Channel> channel) : channel_(std::move(channel)) {}

  absl::StatusOr<double> Check() override {
    const grpc::Slice empty;
    const grpc::ByteBuffer request(&empty, 1);
    grpc::ByteBuffer answer;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    const grpc::internal::RpcMethod method(kMethod, grpc::internal::RpcMethod::NORMAL_RPC);
    const Clock::time_point start = Clock::now();
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall(channel_.get(), method, &context, request, &answer);
    const double micros = SecondsSince(start) * 1e6;
    if (!status.ok()) {
      return absl::UnavailableError(absl::StrCat("the health check: ", status.error_message()));
    }
    grpc::Slice slice;
    if (!answer.DumpToSingleSlice(&slice).ok() ||
        std::string(reinterpret_cast<const char*>(slice.begin()), slice.size()) != kServing) {
      return absl::InternalError("the health check does not say SERVING");
    }
    return micros;
  }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HealthProbe>> HealthProbe::Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // not the look-ups' connection
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kPatience)) {
    return absl::UnavailableError(absl::StrCat("nobody answers on ", target));
  }
  return std::make_unique<GrpcHealthProbe>(std::move(channel));
}

}  // namespace engram::bench
