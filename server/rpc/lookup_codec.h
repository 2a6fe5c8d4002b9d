// The messages of look-ups and prefetches: requests become queries that borrow their ids, answers
// are written by hand. The rows of an answer are not copied: the message's last field is a slice
// over the memory that they were gathered into.
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_SERVER_RPC_LOOKUP_CODEC_H_
#define ENGRAM_SERVER_RPC_LOOKUP_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engram/v1/store.pb.h"
#include "server/lookup/fair_queue.h"
#include "server/lookup/lookup.h"

namespace grpc {
class ByteBuffer;
}  // namespace grpc

namespace engram {

// InvalidArgument if a LookupRequest or PrefetchRequest has more entries in `ids.layers` than any
// table has layers, or both `ids` and `tokens`. Looked at before it is decoded: each entry would
// become an object, and an empty one takes two bytes of a message but fifty of memory; and of the
// alternatives the generated class would silently keep the last one.
// `request_id`, if given, receives a LookupRequest's, so that the refusal of one of a stream's
// requests is not taken for another's.
absl::Status CheckEncodedRequest(const grpc::ByteBuffer& buffer, uint64_t* request_id = nullptr);

// InvalidArgument if `on_row_error` is a value that this daemon does not know.
absl::Status CheckPolicy(const v1::LookupRequest& request);

// None: judged by size. InvalidArgument if it is a value that this daemon does not know.
absl::StatusOr<std::optional<Urgency>> ToUrgency(v1::Urgency urgency);

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

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_LOOKUP_CODEC_H_
