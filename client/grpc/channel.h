// One connection to a daemon, as a gRPC channel, and the time limits of calls on it.
//
// Safe from any thread.
#ifndef ENGRAM_CLIENT_GRPC_CHANNEL_H_
#define ENGRAM_CLIENT_GRPC_CHANNEL_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace grpc {
class Channel;
}

namespace engram {

// Opens a connection of its own (none is shared between channels) and waits for it. The channel
// reconnects by itself, after 50 ms at first and after at most 1 s later.
// InvalidArgument for a bad target, or answers of 2 GiB and more (Protobuf's limit); Unavailable,
// naming the target and the reason, when nobody answers within `timeout`.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& target,
                                                           size_t max_answer_bytes,
                                                           std::chrono::milliseconds timeout);

// The point in time `timeout` from now, at most a year ahead, so that no sum overflows.
std::chrono::system_clock::time_point DeadlineAfter(std::chrono::milliseconds timeout);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_CHANNEL_H_
