#include "client/grpc/channel.h"

#include <grpc/grpc.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <climits>

#include "absl/strings/str_cat.h"
#include "client/grpc/target.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr int kFirstBackoffMs = 50;
constexpr int kMaxBackoffMs = 1000;
// Fewer and larger frames and window updates than gRPC's defaults (16 KiB, 64 KiB) for answers of
// many megabytes.
constexpr int kMaxFrameBytes = 4 << 20;
constexpr int kStreamWindowBytes = 16 << 20;

grpc::ChannelArguments Arguments(size_t max_answer_bytes) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(max_answer_bytes));
  arguments.SetMaxSendMessageSize(-1);  // the daemon's limit counts, and its text says so
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstBackoffMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kMaxBackoffMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxBackoffMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameBytes);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kStreamWindowBytes);
  // Two clients of one process get a connection each instead of queueing on one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A daemon is a neighbour: a proxy meant for the web is never on the way to it.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Calls are repeated in one place, unary_call.cc.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return arguments;
}

// One reference to gRPC that is never given back: the last grpc_shutdown of a process joins a
// thread that may sleep in a poll for 10 s after a large message (tcp_posix's backup poller), and a
// program that has dropped its client should not take that long to exit.
void HoldGrpc() {
  static const bool held = [] {
    grpc_init();
    return true;
  }();
  (void)held;
}

// Why there is no connection, which a channel tells only through a call that fails on it.
std::string Reason(grpc::Channel& channel) {
  grpc::ClientContext context;
  context.set_deadline(DeadlineAfter(std::chrono::milliseconds(200)));
  const grpc::ByteBuffer request;
  grpc::Slice empty("");
  grpc::ByteBuffer empty_message(&empty, 1);
  grpc::ByteBuffer answer;
  const grpc::internal::RpcMethod method("/engram.v1.EngramStore/Describe",
                                         grpc::internal::RpcMethod::NORMAL_RPC);
  const grpc::Status status =
      grpc::internal::BlockingUnaryCall(&channel, method, &context, empty_message, &answer);
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) return status.error_message();
  return "no answer to the attempt to connect";
}

}  // namespace

std::chrono::system_clock::time_point DeadlineAfter(std::chrono::milliseconds timeout) {
  constexpr std::chrono::milliseconds kYear = std::chrono::hours(24 * 365);
  return std::chrono::system_clock::now() + std::clamp(timeout, -kYear, kYear);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& target,
                                                           size_t max_answer_bytes,
                                                           std::chrono::milliseconds timeout) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string uri, GrpcTarget(target));
  if (max_answer_bytes == 0 || max_answer_bytes > INT_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_answer_bytes is ", max_answer_bytes, "; it must be 1 to ", INT_MAX));
  }
  HoldGrpc();
  std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      uri, grpc::InsecureChannelCredentials(), Arguments(max_answer_bytes));
  if (!channel->WaitForConnected(DeadlineAfter(timeout))) {
    return absl::UnavailableError(absl::StrCat("cannot reach engramd at ", target,
                                               ": is it running? (", Reason(*channel), ")"));
  }
  return channel;
}

}  // namespace engram
