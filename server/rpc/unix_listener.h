// UnixListener: accepts connections on Unix sockets for a gRPC server, which would take them
// without limits and call them all by one name (Clients).
//
// Thread-safe.
#ifndef ENGRAM_SERVER_RPC_UNIX_LISTENER_H_
#define ENGRAM_SERVER_RPC_UNIX_LISTENER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "server/rpc/clients.h"
#include "storage/base/unique_fd.h"

namespace grpc {
class Server;
}  // namespace grpc

namespace engram {

class UnixListener {
 public:
  // More than these are closed at once, which their callers see as a daemon that is gone.
  struct Limits {
    size_t connections = 4096;
    size_t of_user = 2048;
  };
  // Both outlive it; connections are told to `clients`.
  UnixListener(Clients* clients, Limits limits) : clients_(*clients), limits_(limits) {}
  explicit UnixListener(Clients* clients) : UnixListener(clients, Limits()) {}
  ~UnixListener();
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

  // Before Start: a socket there, with mode 0660. FailedPrecondition when something lies there that
  // is no socket, or that another program answers on; Unavailable when it cannot be made.
  absl::Status Listen(const std::string& path);
  // From now on connections go to `server`, which outlives Stop.
  absl::Status Start(grpc::Server* server);
  // Accepts no more, and takes the sockets away.
  void Stop();

 private:
  struct Connection {
    UniqueFd watched;  // a second descriptor of it: gRPC closes its own and tells nobody
    int fd = -1;       // gRPC's
    ClientId client{};
    uid_t user = 0;
  };

  void Run();
  void Accept(int listening);
  void Admit(UniqueFd fd);
  void Forget(uint64_t number);

  Clients& clients_;
  const Limits limits_;
  grpc::Server* server_ = nullptr;
  std::vector<std::string> paths_;
  std::vector<UniqueFd> listening_;
  UniqueFd epoll_;
  UniqueFd stop_;  // an eventfd
  // The thread's own.
  std::unordered_map<uint64_t, Connection> connections_;
  std::unordered_map<uid_t, size_t> of_user_;
  uint64_t next_ = 0;
  std::thread thread_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_UNIX_LISTENER_H_
