// Requests on the wire without a copy too many: row ids and token ids go from the caller's memory
// into the message by one memcpy.
//
// The generated classes would copy them once more, and clear the memory before. So only the small
// parts of a message are theirs; ids are written by hand, by the field numbers of the generated
// header. No gRPC here: a message is a byte array.
//
// Values and pure functions: no object here is shared between threads.
#ifndef ENGRAM_CLIENT_GRPC_REQUEST_ENCODER_H_
#define ENGRAM_CLIENT_GRPC_REQUEST_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/client.h"
#include "storage/table/token_sequences.h"

namespace engram {

// Borrows from `tokens`.
TokenSequences SequencesOf(const TokenBatch& tokens);

// A request, ready to be written into a buffer of size() bytes. Borrows the ids.
class RequestEncoder {
 public:
  // engram.v1.LookupRequest; tiers are asked for when any layer has room for them.
  // InvalidArgument for a layer named twice, room for tiers that cannot be one a row, ids beside
  // tokens, tokens without a layer, or as CountPositions of its sequences; ResourceExhausted for a
  // message of 2 GiB or more, which Protobuf cannot hold.
  static absl::StatusOr<RequestEncoder> ForLookup(const LookupRequest& request,
                                                  uint64_t request_id);
  // engram.v1.PrefetchRequest; errors as above, but for tokens without a layer.
  static absl::StatusOr<RequestEncoder> ForPrefetch(const PrefetchRequest& request);

  size_t size() const { return size_; }
  // Writes size() bytes: those that the generated class would write.
  void Write(uint8_t* out) const;

 private:
  struct Layer {
    int32_t layer = 0;
    absl::Span<const uint32_t> row_ids;
    size_t size = 0;  // of the LayerRowIds message
  };
  // The engram.v1.TokenBatch of a request by tokens.
  struct Tokens {
    bool present = false;
    TokenBatch batch;
    // Of the packed fields and the whole message, in bytes.
    size_t lengths_size = 0;
    size_t lookbacks_size = 0;
    size_t layers_size = 0;
    size_t size = 0;
  };

  RequestEncoder() = default;
  // After all else is set.
  absl::Status Finish();
  absl::Status SizeLayers();
  absl::Status SizeTokens();
  uint8_t* WriteLayers(uint8_t* out) const;
  uint8_t* WriteTokens(uint8_t* out) const;

  // In the order of a message's fields; of `layers_` and `tokens_` one has the rows that are meant.
  // With tokens, `layers_` are the layers of the TokenBatch.
  std::string head_;
  std::vector<Layer> layers_;
  size_t ids_size_ = 0;  // of the RowIdBatch message
  Tokens tokens_;
  std::string tail_;
  size_t size_ = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_REQUEST_ENCODER_H_
