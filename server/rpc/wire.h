// Between messages of engram.v1 and the daemon's own types. The rows of an answer are not copied:
// the message's last field is a slice over the memory that they were gathered into.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_SERVER_RPC_WIRE_H_
#define ENGRAM_SERVER_RPC_WIRE_H_

#include <string>

#include "absl/status/status.h"
#include "engram/v1/store.pb.h"
#include "server/lookup/lookup.h"
#include "storage/nvme/store.h"

namespace grpc {
class ByteBuffer;
class Status;
}  // namespace grpc

namespace engram {

grpc::Status ToGrpc(const absl::Status& status);

// False when `buffer` is no such message.
bool Decode(const grpc::ByteBuffer& buffer, google::protobuf::Message& message);
// InvalidArgument if a LookupRequest or PrefetchRequest has more entries in `layers` than any table
// has layers. Looked at before it is decoded: each would become an object, and an empty one takes
// two bytes of a message but fifty of memory.
// `request_id`, if given, receives a LookupRequest's, so that the refusal of one of a stream's
// requests is not taken for another's.
absl::Status CheckLayerEntries(const grpc::ByteBuffer& buffer, uint64_t* request_id = nullptr);
grpc::ByteBuffer Encode(const google::protobuf::Message& message);

// Borrow from `request`.
LookupQuery ToQuery(const v1::LookupRequest& request);
LookupQuery ToQuery(const v1::PrefetchRequest& request);

// A LookupResponse with every part of the look-up; keeps the parts' row memory alive.
grpc::ByteBuffer EncodeLookupResponse(const Lookup& lookup);

// A StreamLookupResponse with one part.
grpc::ByteBuffer EncodeStreamPart(const Lookup& lookup, size_t part, uint64_t request_id,
                                  bool last);
// A StreamLookupResponse that ends a request with an error.
grpc::ByteBuffer EncodeStreamError(const absl::Status& status, uint64_t request_id);

// With the layers' layout on the drive as `store` has it; without, should the version be gone.
v1::TableInfo ToTableInfo(const TableRecord& record, const Store& store);

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_WIRE_H_
