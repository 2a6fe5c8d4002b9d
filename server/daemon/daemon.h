// Daemon: engramd's parts and their life.
//
// Start makes them from the ground up: status page, store, DRAM, tables, services, then the
// sockets of the network and of this host. They are destroyed in the reverse order.
//
// Start, Stop and the destructor are called by one thread. The parts serve on threads of their own.
#ifndef ENGRAM_SERVER_DAEMON_DAEMON_H_
#define ENGRAM_SERVER_DAEMON_DAEMON_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/config/config.h"
#include "server/http/http.h"
#include "server/jobs/adopted_check.h"
#include "server/local/handover_server.h"
#include "server/lookup/buffer_pool.h"
#include "server/lookup/dispatcher.h"
#include "server/lookup/prefetcher.h"
#include "server/placement/dram_setup.h"
#include "server/placement/hbm_cache.h"
#include "server/placement/warm_start.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/in_flight.h"
#include "server/rpc/store_service.h"
#include "server/tables/stats.h"
#include "server/tables/tables.h"
#include "storage/nvme/store.h"

namespace engram {

class Daemon {
 public:
  // Takes the memory of the HBM tier, which may take a second; opens nothing else.
  explicit Daemon(Config config);
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Serves when it returns. Blocks while the store opens. Once. After an error, which names the
  // setting to change, the Daemon can only be destroyed.
  absl::Status Start();

  // Refuses new calls, lets those under way finish for `drain_seconds` at most, and saves which
  // rows memory holds. Once, after a Start that succeeded.
  void Stop();

 private:
  // The steps of Start, in this order.
  absl::Status StartHttp();
  absl::Status OpenTiers();
  void CreateServices(const Sharing& sharing);
  absl::Status StartGrpc();
  absl::Status StartHandover(const Sharing& sharing, const std::vector<std::string>& sockets);
  void StartBackground();

  // The Unix sockets of `listen` that have room for the hand-over socket beside them.
  std::vector<std::string> SocketsForSharing() const;
  Sharing PlanSharing(const std::vector<std::string>& sockets) const;
  // From any thread, also during Start and Stop.
  DaemonSnapshot Snapshot() const;

  const Config config_;
  const std::chrono::steady_clock::time_point start_;
  HbmCache hbm_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> stopping_{false};
  InFlight in_flight_;
  BufferPool pool_;
  WorkPool gather_helpers_;
  std::unique_ptr<Store> store_;
  DramSetup dram_;
  std::unique_ptr<WarmStart> warm_start_;
  std::unique_ptr<Tables> tables_;
  std::unique_ptr<AdoptedCheck> adopted_check_;
  std::unique_ptr<Prefetcher> prefetcher_;
  Clients clients_;
  RefusalProbe refusals_;
  Dispatcher dispatcher_;
  std::unique_ptr<StoreService> store_service_;
  std::unique_ptr<AdminService> admin_service_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HandoverServer> handover_;
  std::unique_ptr<HttpServer> http_;  // reads all of the above
};

}  // namespace engram

#endif  // ENGRAM_SERVER_DAEMON_DAEMON_H_
