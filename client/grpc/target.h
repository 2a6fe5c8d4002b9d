// Where a daemon listens, as people write it, checked and put into the form that gRPC wants.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_CLIENT_GRPC_TARGET_H_
#define ENGRAM_CLIENT_GRPC_TARGET_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram {

// `unix:/path`, `host:port`, `1.2.3.4:port` or `[::1]:port` → a gRPC target URI. What a URI cannot
// hold (a blank in a path) is escaped. InvalidArgument, naming `target`, for anything else: a
// relative or over-long path (a socket's holds 107 bytes), a missing or impossible port.
absl::StatusOr<std::string> GrpcTarget(absl::string_view target);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_TARGET_H_
