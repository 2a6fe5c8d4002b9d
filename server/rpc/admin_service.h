// The EngramAdmin service: load, list, activate, drop, verify, stats.
//
// Callers on TCP are refused unless the operator allowed them: this service makes the daemon read
// directories and drops tables.
#ifndef ENGRAM_SERVER_RPC_ADMIN_SERVICE_H_
#define ENGRAM_SERVER_RPC_ADMIN_SERVICE_H_

#include <atomic>
#include <functional>
#include <memory>

#include "server/rpc/in_flight.h"
#include "server/tables/stats.h"
#include "server/tables/tables.h"

namespace grpc {
class Service;
}  // namespace grpc

namespace engram {

class HbmCache;
class WarmStart;

class AdminService {
 public:
  // All must outlive the service.
  struct Parts {
    Tables* tables = nullptr;
    InFlight* in_flight = nullptr;
    WarmStart* warm_start = nullptr;
    const HbmCache* hbm = nullptr;
    const std::atomic<bool>* stopping = nullptr;  // loads and checks end soon after it is set
    std::function<DaemonSnapshot()> snapshot;
    int load_threads = 2;
    bool io_uring = true;  // loads read and write through it, where it is not refused
    bool allow_tcp = false;
  };
  static std::unique_ptr<AdminService> Create(Parts parts);
  virtual ~AdminService() = default;

  virtual grpc::Service* service() = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_ADMIN_SERVICE_H_
