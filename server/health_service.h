// HealthService: grpc.health.v1, on a CallLoop. (gRPC's own brings the threads of the callback API
// with it; call_loop.h says why not.)
//
// The daemon as a whole (""), EngramStore and EngramAdmin are serving from the first call on until
// Drain. Thread-safe.
#ifndef ENGRAM_SERVER_HEALTH_SERVICE_H_
#define ENGRAM_SERVER_HEALTH_SERVICE_H_

#include <grpcpp/impl/codegen/service_type.h>

#include <set>

#include "storage/base/mutex.h"

namespace engram {

class CallLoop;

class HealthService final : public grpc::Service {
 public:
  HealthService();
  ~HealthService() override;

  // As StoreService::Accept.
  void Accept(CallLoop& loop);
  // Nothing is serving any more: those who watch are told, and their calls end.
  void Drain();

 private:
  class Watcher;
  void Add(Watcher* watcher);
  void Remove(Watcher* watcher);

  Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_SERVER_HEALTH_SERVICE_H_
