// The Transport over gRPC: a connection of its own, raw messages (lookup_codec.h), calls repeated
// while the daemon cannot be reached (unary_call.h). Thread-safe, as every Transport.
#ifndef ENGRAM_CLIENT_GRPC_TRANSPORT_H_
#define ENGRAM_CLIENT_GRPC_TRANSPORT_H_

#include <memory>

#include "client/transport.h"

namespace grpc {
class Channel;
}

namespace engram {

// Waits for the connection. Errors as Client::Connect, and InvalidArgument for a bad target or
// answer limit.
// `channel` is an open one (channel.h).
std::unique_ptr<Transport> MakeGrpcTransport(std::shared_ptr<grpc::Channel> channel);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_TRANSPORT_H_
