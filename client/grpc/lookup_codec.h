// Answers to look-ups without a copy too many: rows go from the message into the caller's memory by
// one memcpy.
//
// The generated classes would copy them once more, and clear the memory before. So only the small
// parts of a message are theirs; rows and tiers are walked by hand, by the field numbers of the
// generated header. No gRPC here: messages are ZeroCopyInputStreams. request_encoder.h is the other
// direction.
//
// An answer is read twice: ScanLookupResponse / ScanStreamResponse check all of it and note where
// the rows lie (rows are skipped, not touched); CopyRows then fills the caller's buffers. So fields
// may come in any order, and nothing is written unless everything fits.
//
// Values and pure functions: no object here is shared between threads.
#ifndef ENGRAM_CLIENT_GRPC_LOOKUP_CODEC_H_
#define ENGRAM_CLIENT_GRPC_LOOKUP_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/client.h"

namespace google::protobuf::io {
class ZeroCopyInputStream;
}

namespace engram {

// A stretch of a message, in bytes from its beginning.
struct ByteRange {
  size_t begin = 0;
  size_t size = 0;
};

// One layer of an answer that has been checked against the request.
struct ScannedLayer {
  LayerAnswer answer;
  size_t request_index = 0;  // into LookupRequest::layers
  ByteRange rows;
  ByteRange tiers;
  // InvalidArgument, naming both sizes, when the caller's `out` or `tiers` is not what the rows
  // need; CopyRows must not be called for such a layer.
  absl::Status out_status;
};

struct ScannedAnswer {
  uint64_t version = 0;
  std::vector<ScannedLayer> layers;  // ascending by layer: each of the request's, once
};

// Checks an engram.v1.LookupResponse against its request. DataLoss for bytes that are no such
// message; Internal, naming the layer, for an answer that does not fit the request (a layer that is
// missing, doubled or was not asked for, sizes that do not match or are not as many rows for every
// position, a failed row where none may be); InvalidArgument as in out_status.
absl::StatusOr<ScannedAnswer> ScanLookupResponse(google::protobuf::io::ZeroCopyInputStream* in,
                                                 const LookupRequest& request);

struct ScannedStreamResponse {
  uint64_t request_id = 0;
  absl::Status status;  // of the request
  bool last = false;
  uint64_t version = 0;
  std::vector<ScannedLayer> layers;  // none or one
};

// The same for an engram.v1.StreamLookupResponse, in two steps, for the request is known only once
// its id is read. `layers` of the first are not checked yet; a failed request's are dropped.
absl::StatusOr<ScannedStreamResponse> ScanStreamResponse(
    google::protobuf::io::ZeroCopyInputStream* in);
absl::Status CheckLayer(const LookupRequest& request, ScannedLayer& layer);

// Copies rows and, where asked for, tiers of checked layers into the request's buffers. `in` is the
// same message, from its beginning. DataLoss when it ends early.
absl::Status CopyRows(google::protobuf::io::ZeroCopyInputStream* in, const LookupRequest& request,
                      absl::Span<const ScannedLayer> layers);

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_LOOKUP_CODEC_H_
