// The Transport over gRPC: a connection of its own, raw messages (lookup_codec.h), calls repeated
// while the daemon cannot be reached (unary_call.h). Thread-safe, as every Transport.
#ifndef ENGRAM_CLIENT_GRPC_TRANSPORT_H_
#define ENGRAM_CLIENT_GRPC_TRANSPORT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/transport.h"

namespace engram {

// Waits for the connection. Errors as Client::Connect, and InvalidArgument for a bad target or
// answer limit.
absl::StatusOr<std::unique_ptr<Transport>> ConnectGrpc(const ClientOptions& options);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_TRANSPORT_H_
