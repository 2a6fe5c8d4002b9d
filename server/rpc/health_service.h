// HealthService: grpc.health.v1, on a CallLoop. (gRPC's own brings the threads of the callback API
// with it; call_loop.h says why not.)
//
// The daemon as a whole (""), EngramStore and EngramAdmin are serving from the first call on until
// Drain. Thread-safe.
#ifndef ENGRAM_SERVER_RPC_HEALTH_SERVICE_H_
#define ENGRAM_SERVER_RPC_HEALTH_SERVICE_H_

#include <memory>

namespace grpc {
class Service;
}  // namespace grpc

namespace engram {

class CallLoop;

class HealthService {
 public:
  static std::unique_ptr<HealthService> Create();
  virtual ~HealthService() = default;

  virtual grpc::Service* service() = 0;
  // As StoreService::Accept.
  virtual void Accept(CallLoop& loop) = 0;
  // From now on nothing is serving: watchers get that status, and their calls end.
  virtual void Drain() = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_HEALTH_SERVICE_H_
