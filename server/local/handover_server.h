// HandoverServer: hands descriptors of DRAM segments to clients on this host, and hears from them
// what they have read there (storage/dram/handover.h, access_ring.h).
//
// One thread serves all connections and never waits for one of them: a client that does not read
// its answers, asks nonsense or comes too often is cut off, and the others notice nothing. What a
// client leaves behind when it dies is its connection, whose end frees all that it had.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_LOCAL_HANDOVER_SERVER_H_
#define ENGRAM_SERVER_LOCAL_HANDOVER_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tables/tables.h"

namespace engram {

class HbmCache;

// Whether the daemon shares memory, for those who answer Attach.
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
  virtual ~HandoverServer() = default;  // cuts all clients off

  virtual size_t clients() const = 0;
  // Of them, those that have asked for writable memory, and got it.
  virtual size_t writing_clients() const = 0;
  // Counts what clients have said by now, which happens by itself some 20 ms later at the latest.
  virtual void ReadTelemetry() = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOCAL_HANDOVER_SERVER_H_
