// The transport of clients on the daemon's host: rows that DRAM holds are copied straight out of
// the daemon's memory (storage/dram/attached.h), all others come over gRPC. Behaves as the gRPC
// transport, errors included: whatever is not a plain look-up of rows in memory is left to it.
#ifndef ENGRAM_CLIENT_LOCAL_SHM_TRANSPORT_H_
#define ENGRAM_CLIENT_LOCAL_SHM_TRANSPORT_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/transport.h"

namespace grpc {
class Channel;
}

namespace engram {

// `rest` and `channel` lead to the daemon whose gRPC socket is `socket_path`. FailedPrecondition
// or Unavailable, saying why, when it shares no memory with this process.
absl::StatusOr<std::unique_ptr<Transport>> AttachShm(std::unique_ptr<Transport>& rest,
                                                     std::shared_ptr<grpc::Channel> channel,
                                                     const std::string& socket_path,
                                                     std::chrono::milliseconds timeout);

}  // namespace engram

#endif  // ENGRAM_CLIENT_LOCAL_SHM_TRANSPORT_H_
