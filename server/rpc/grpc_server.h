// The gRPC server: the two services, health and reflection, on Unix sockets and TCP.
#ifndef ENGRAM_SERVER_RPC_GRPC_SERVER_H_
#define ENGRAM_SERVER_RPC_GRPC_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/clients.h"
#include "server/rpc/in_flight.h"
#include "server/rpc/store_service.h"

namespace engram {

struct GrpcServerOptions {
  std::vector<std::string> listen;  // "unix:/path" or "host:port"
  uint64_t max_request_bytes = uint64_t{64} << 20;
  Clients* clients = nullptr;  // told of connections on Unix sockets; outlives the server
};

class GrpcServer {
 public:
  // The services and their in_flight must outlive the server. A Unix socket left by a daemon that
  // died is replaced; sockets are made with mode 0660. Unavailable, naming the address, when one
  // cannot be bound; FailedPrecondition when another program answers on it.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           StoreService* store, AdminService* admin,
                                                           InFlight* in_flight);
  virtual ~GrpcServer() = default;

  // The addresses bound, with the port that was chosen where 0 was asked for.
  virtual const std::vector<std::string>& addresses() const = 0;

  // Health turns to NOT_SERVING, nothing new is accepted, what is under way gets `patience`.
  virtual void Shutdown(std::chrono::milliseconds patience) = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_GRPC_SERVER_H_
