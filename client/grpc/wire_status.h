// The one place where status codes of the wire become Abseil's.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_CLIENT_GRPC_WIRE_STATUS_H_
#define ENGRAM_CLIENT_GRPC_WIRE_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace engram {

// `code` is a google.rpc.Code, as gRPC's statuses and the `code` fields of engram.v1 carry it; the
// numbers of absl::StatusCode are the same. A number that is no code gives Unknown and is named in
// the text. The text is kept as it is.
absl::Status StatusFromWire(int code, absl::string_view message);

// The same for a grpc::Status; a template so that this header needs none of gRPC's.
template <typename GrpcStatus>
absl::Status StatusFromGrpc(const GrpcStatus& status) {
  return StatusFromWire(static_cast<int>(status.error_code()), status.error_message());
}

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_WIRE_STATUS_H_
