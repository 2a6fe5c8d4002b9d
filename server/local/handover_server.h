// HandoverServer: passes descriptors of DRAM segments and of the HBM arena to clients on this host
// (storage/dram/handover.h), and reads their telemetry (client_telemetry.h).
//
// One thread serves all connections and never waits for one of them: a client that does not read
// its answers, breaks the protocol or comes too often is cut off, and the others notice nothing.
// The end of a connection frees all that its client had.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_LOCAL_HANDOVER_SERVER_H_
#define ENGRAM_SERVER_LOCAL_HANDOVER_SERVER_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/tables/tables.h"
#include "storage/base/mutex.h"
#include "storage/base/unique_fd.h"
#include "storage/dram/handover.h"

struct epoll_event;

namespace engram {

class HbmCache;

// Whether the daemon shares memory: what Attach answers.
struct Sharing {
  uint64_t instance = 0;       // the server's; 0: nothing is shared
  std::string note;            // why not
  bool writable_dram = false;  // as HandoverServer::Options
  const HbmCache* hbm = nullptr;
};

class HandoverServer {
 public:
  // A number that no other daemon, and not this one after a restart, has.
  static uint64_t NewInstance();

  struct Options {
    uint64_t instance = 0;
    // Paths of the Unix sockets that gRPC listens on; each gets one beside it.
    std::vector<std::string> grpc_sockets;
    Tables* tables = nullptr;       // outlives the server
    const HbmCache* hbm = nullptr;  // whose arena is handed out too; likewise, or null
    // Whether clients that ask for it get DRAM's memory writable, for their GPUs' sake.
    bool writable_dram = false;
    // Connections at a time, all in all and of one user; fewer where the DRAM budget keeps less for
    // their rings (Tables::dram_bytes_for_rings), of which one user gets half. What is too many
    // when that shrinks is cut off.
    size_t max_clients = 1024;
    size_t max_clients_per_user = 256;
  };
  // Unavailable, naming the path, when a socket cannot be made there.
  static absl::StatusOr<std::unique_ptr<HandoverServer>> Start(const Options& options);
  ~HandoverServer();  // cuts all clients off
  HandoverServer(const HandoverServer&) = delete;
  HandoverServer& operator=(const HandoverServer&) = delete;

  size_t clients() const;
  // Of them, those that have asked for writable memory, and got it.
  size_t writing_clients() const;
  // Counts what clients have reported by now; the thread does so every 20 ms.
  void ReadTelemetry();

 private:
  struct Connection;

  explicit HandoverServer(const Options& options);
  absl::Status Begin();
  absl::Status Listen(const std::string& path);
  absl::Status Watch(int fd);
  void Serve();
  void HandleEvents(const epoll_event* events, int count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Accept(int listener) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ListenAgain(bool listen);
  int TimeoutMs() const;
  bool Answer(Connection& client);
  bool AnswerHello(Connection& client, const dram::HandoverRequest& request);
  bool AnswerSegments(Connection& client, const dram::HandoverRequest& request);
  bool AnswerArena(Connection& client);
  bool Send(Connection& client, dram::HandoverReply reply, const std::vector<int>& descriptors);
  size_t MaxClients() const;
  void CutOffExcess() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadRings() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadRing(Connection& client) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  UniqueFd epoll_;
  UniqueFd stop_;  // an eventfd
  std::map<int, UniqueFd> listeners_;
  std::vector<std::string> paths_;
  // When to listen again, while the server does not. The thread's own.
  std::optional<std::chrono::steady_clock::time_point> listen_at_;
  mutable Mutex mutex_;  // between the thread and callers
  std::map<int, std::unique_ptr<Connection>> clients_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOCAL_HANDOVER_SERVER_H_
