// Who calls: what the fair queue takes for one client.
//
// gRPC calls every caller on a Unix socket by the same name, so connections on Unix sockets are
// accepted by us (UnixListener) and handed to it as descriptors, which it calls "fd:N". Each is a
// client. On TCP a client is an address, whatever its connections.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_RPC_CLIENTS_H_
#define ENGRAM_SERVER_RPC_CLIENTS_H_

#include <sys/types.h>

#include <cstdint>
#include <unordered_map>

#include "absl/strings/string_view.h"
#include "server/lookup/fair_queue.h"
#include "storage/base/mutex.h"

namespace engram {

class Clients {
 public:
  // A connection of this user, before gRPC has it. The descriptor's number names it until it is
  // removed, or a later connection of that number takes its place: gRPC closes it when it likes.
  ClientId Add(int fd, uid_t user);
  // Nothing happens if the number names another connection by now.
  void Remove(int fd, ClientId id);
  size_t connections() const;

  // Whether the caller is on this host, on a Unix socket.
  static bool IsLocal(absl::string_view peer);

  // `peer` is what gRPC calls the caller: "fd:N", "ipv4:A.B.C.D:PORT", "ipv6:[A]:PORT", or anything
  // else, all of which is one client.
  ClientId Of(absl::string_view peer) const;

 private:
  struct Connection {
    ClientId id{};
    uid_t user = 0;
  };
  mutable Mutex mutex_;
  std::unordered_map<int, Connection> connections_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_CLIENTS_H_
