// Between gRPC's bytes and statuses and ours: what every service needs. lookup_codec.h has the
// messages of look-ups, table_messages.h those that describe tables.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_SERVER_RPC_WIRE_H_
#define ENGRAM_SERVER_RPC_WIRE_H_

#include <chrono>

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace grpc {
class ByteBuffer;
class Status;
}  // namespace grpc

namespace engram {

grpc::Status ToGrpc(const absl::Status& status);

// A call's deadline by the clock that nobody sets; gRPC's "never" is time_point::max().
std::chrono::steady_clock::time_point ToSteady(std::chrono::system_clock::time_point deadline);

// False when `buffer` is no such message.
bool Decode(const grpc::ByteBuffer& buffer, google::protobuf::Message& message);
grpc::ByteBuffer Encode(const google::protobuf::Message& message);

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_WIRE_H_
