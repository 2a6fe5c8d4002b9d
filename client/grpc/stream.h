// LookupStream over gRPC's StreamLookup, with raw messages (lookup_codec.h).
//
// One thread may Send and CloseSend while another Receives; the stream owns no thread. At most
// kStreamWindow requests may be unanswered: Send waits for the window to open, so a single thread
// that only sends must take answers in between (DeadlineExceeded after its deadline, nothing sent).
// No read or write waits for longer than the deadline of the request that it is for: then the
// stream is broken, with DeadlineExceeded.
//
// A layer whose `out` has the wrong size is left alone and reported in Event::status
// (InvalidArgument); an answer that does not fit its request breaks the stream (Internal,
// DataLoss). A broken stream gives the same error for ever.
#ifndef ENGRAM_CLIENT_GRPC_STREAM_H_
#define ENGRAM_CLIENT_GRPC_STREAM_H_

#include <chrono>
#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "client/client.h"

namespace grpc {
class Channel;
}

namespace engram {

inline constexpr size_t kStreamWindow = 128;

// Waits for the connection, at most default_timeout; Unavailable when there is none by then.
absl::StatusOr<std::unique_ptr<LookupStream>> OpenGrpcStream(
    std::shared_ptr<grpc::Channel> channel, std::chrono::milliseconds default_timeout);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_STREAM_H_
