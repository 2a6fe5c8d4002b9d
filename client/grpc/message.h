// Requests into and answers out of gRPC's ByteBuffers.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_CLIENT_GRPC_MESSAGE_H_
#define ENGRAM_CLIENT_GRPC_MESSAGE_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/grpc/request_encoder.h"

namespace google::protobuf {
class MessageLite;
}
namespace grpc {
class ByteBuffer;
}

namespace engram {

// One slice, written once.
grpc::ByteBuffer ToBuffer(const RequestEncoder& encoder);
grpc::ByteBuffer ToBuffer(const google::protobuf::MessageLite& message);

// DataLoss, naming the message's type, when the bytes are none such.
absl::Status FromBuffer(grpc::ByteBuffer* buffer, google::protobuf::MessageLite* message);

// Checks an answer to Lookup, then fills the request's buffers. Errors as ScanLookupResponse.
absl::StatusOr<LookupAnswer> ReadLookupAnswer(grpc::ByteBuffer* buffer,
                                              const LookupRequest& request);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_MESSAGE_H_
