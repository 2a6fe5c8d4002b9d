#include "client/grpc/request_encoder.h"

#include <bit>
#include <climits>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engram/v1/store.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using google::protobuf::io::CodedOutputStream;
using Wire = google::protobuf::internal::WireFormatLite;

static_assert(std::endian::native == std::endian::little, "ids are little-endian on the wire");
static_assert(static_cast<int>(v1::LookupRequest::kIdsFieldNumber) ==
              static_cast<int>(v1::PrefetchRequest::kIdsFieldNumber));
static_assert(static_cast<int>(v1::LookupRequest::kTokensFieldNumber) ==
              static_cast<int>(v1::PrefetchRequest::kTokensFieldNumber));

constexpr uint32_t Varint(int field) { return Wire::MakeTag(field, Wire::WIRETYPE_VARINT); }
constexpr uint32_t Bytes(int field) {
  return Wire::MakeTag(field, Wire::WIRETYPE_LENGTH_DELIMITED);
}

constexpr uint32_t kRequestIdsTag = Bytes(v1::LookupRequest::kIdsFieldNumber);
constexpr uint32_t kRequestTokensTag = Bytes(v1::LookupRequest::kTokensFieldNumber);
constexpr uint32_t kIdsLayersTag = Bytes(v1::RowIdBatch::kLayersFieldNumber);
constexpr uint32_t kIdsLayerTag = Varint(v1::LayerRowIds::kLayerFieldNumber);
constexpr uint32_t kIdsTag = Bytes(v1::LayerRowIds::kRowIdsFieldNumber);
constexpr uint32_t kTokenIdsTag = Bytes(v1::TokenBatch::kTokenIdsFieldNumber);
constexpr uint32_t kLengthsTag = Bytes(v1::TokenBatch::kLengthsFieldNumber);
constexpr uint32_t kLookbacksTag = Bytes(v1::TokenBatch::kLookbacksFieldNumber);
constexpr uint32_t kTokenLayersTag = Bytes(v1::TokenBatch::kLayersFieldNumber);
constexpr uint32_t kCompressedTag = Varint(v1::TokenBatch::kCompressedFieldNumber);

// Room that is left for all that is not ids.
constexpr size_t kMaxBytes = INT_MAX - 64;

size_t TagSize(uint32_t tag) { return CodedOutputStream::VarintSize32(tag); }

// Of a field of so many bytes, none being left out as the generated classes do.
size_t FieldSize(uint32_t tag, size_t bytes) {
  if (bytes == 0) return 0;
  return TagSize(tag) + CodedOutputStream::VarintSize32(static_cast<uint32_t>(bytes)) + bytes;
}

size_t PackedSize(absl::Span<const uint32_t> values) {
  size_t size = 0;
  for (const uint32_t value : values) size += CodedOutputStream::VarintSize32(value);
  return size;
}

uint8_t* WriteHeader(uint32_t tag, size_t bytes, uint8_t* out) {
  out = CodedOutputStream::WriteVarint32ToArray(tag, out);
  return CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(bytes), out);
}

uint8_t* WriteRaw(const void* data, size_t size, uint8_t* out) {
  if (size != 0) std::memcpy(out, data, size);
  return out + size;
}

uint8_t* WriteBytes(uint32_t tag, const void* data, size_t bytes, uint8_t* out) {
  return bytes == 0 ? out : WriteRaw(data, bytes, WriteHeader(tag, bytes, out));
}

uint8_t* WritePacked(uint32_t tag, absl::Span<const uint32_t> values, size_t bytes, uint8_t* out) {
  if (bytes == 0) return out;
  out = WriteHeader(tag, bytes, out);
  for (const uint32_t value : values) out = CodedOutputStream::WriteVarint32ToArray(value, out);
  return out;
}

v1::Urgency ToWire(CallUrgency urgency) {
  switch (urgency) {
    case CallUrgency::kUnsaid:
      return v1::URGENCY_UNSPECIFIED;
    case CallUrgency::kDecode:
      return v1::URGENCY_DECODE;
    case CallUrgency::kPrefill:
      return v1::URGENCY_PREFILL;
    case CallUrgency::kPrefetch:
      return v1::URGENCY_PREFETCH;
    case CallUrgency::kBackground:
      return v1::URGENCY_BACKGROUND;
  }
  return v1::URGENCY_UNSPECIFIED;
}

absl::Status TooLarge(size_t count, absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "a request with ", count, " ", what, " exceeds the 2 GiB that a message can have; split it"));
}

absl::Status CheckTiers(const LookupRequest& request, const LayerRequest& layer, size_t positions) {
  const size_t room = layer.tiers.size();
  if (room == 0) return absl::OkStatus();
  const std::string where = absl::StrCat("layer ", layer.layer, " of table \"", request.table,
                                         "\": tiers has room for ", room, " entries, there are ");
  if (!request.tokens.has_value()) {
    if (room == layer.row_ids.size()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(where, layer.row_ids.size(), " ids; make them equal or leave it empty"));
  }
  if (positions > 0 && room % positions == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      where, positions, " positions; give one for each column of each, or leave it empty"));
}

absl::Status CheckNoIds(int32_t layer, size_t ids) {
  if (ids == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("layer ", layer, " has ", ids,
                   " row ids in a request by tokens; ask for rows by ids or by tokens, not both"));
}

}  // namespace

TokenSequences SequencesOf(const TokenBatch& tokens) {
  return {.ids = tokens.token_ids.size(), .lengths = tokens.lengths, .lookbacks = tokens.lookbacks};
}

absl::StatusOr<RequestEncoder> RequestEncoder::ForLookup(const LookupRequest& request,
                                                         uint64_t request_id) {
  RequestEncoder encoder;
  size_t positions = 0;
  if (request.tokens.has_value()) {
    if (request.layers.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a look-up by tokens in table \"", request.table,
                       "\" names no layer; give an entry with room for the rows of each"));
    }
    ENGRAM_ASSIGN_OR_RETURN(positions, SequencesOf(*request.tokens).CountPositions());
    encoder.tokens_ = {.present = true, .batch = *request.tokens};
  }
  bool want_tiers = false;
  encoder.layers_.reserve(request.layers.size());
  for (const LayerRequest& layer : request.layers) {
    encoder.layers_.push_back({layer.layer, layer.row_ids, 0});
    want_tiers = want_tiers || !layer.tiers.empty();
    ENGRAM_RETURN_IF_ERROR(CheckTiers(request, layer, positions));
  }
  v1::LookupRequest head;
  head.set_table(request.table);
  head.set_version(request.version);
  v1::LookupRequest tail;
  tail.set_on_row_error(request.on_row_error == RowErrorPolicy::kZero ? v1::ON_ROW_ERROR_ZERO
                                                                      : v1::ON_ROW_ERROR_FAIL);
  tail.set_want_tiers(want_tiers);
  tail.set_request_id(request_id);
  tail.set_expect_table_digest(request.expect_table_digest);
  tail.set_urgency(ToWire(request.urgency));
  encoder.head_ = head.SerializeAsString();
  encoder.tail_ = tail.SerializeAsString();
  ENGRAM_RETURN_IF_ERROR(encoder.Finish());
  return encoder;
}

absl::StatusOr<RequestEncoder> RequestEncoder::ForPrefetch(const PrefetchRequest& request) {
  RequestEncoder encoder;
  if (request.tokens.has_value()) {
    ENGRAM_RETURN_IF_ERROR(SequencesOf(*request.tokens).CountPositions().status());
    encoder.tokens_ = {.present = true, .batch = *request.tokens};
  }
  encoder.layers_.reserve(request.layers.size());
  for (const PrefetchRequest::Layer& layer : request.layers) {
    encoder.layers_.push_back({layer.layer, layer.row_ids, 0});
  }
  v1::PrefetchRequest head;
  head.set_table(request.table);
  head.set_version(request.version);
  v1::PrefetchRequest tail;
  tail.set_expect_table_digest(request.expect_table_digest);
  tail.set_urgency(ToWire(request.urgency));
  encoder.head_ = head.SerializeAsString();
  encoder.tail_ = tail.SerializeAsString();
  ENGRAM_RETURN_IF_ERROR(encoder.Finish());
  return encoder;
}

absl::Status RequestEncoder::Finish() {
  std::unordered_set<int32_t> seen;
  for (const Layer& layer : layers_) {
    if (seen.insert(layer.layer).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer.layer, " is named twice; put all its rows into one entry"));
  }
  size_ = head_.size() + tail_.size();
  return tokens_.present ? SizeTokens() : SizeLayers();
}

absl::Status RequestEncoder::SizeLayers() {
  for (Layer& layer : layers_) {
    const size_t bytes = layer.row_ids.size() * sizeof(uint32_t);
    // Checked layer by layer, so that no sum can overflow.
    if (bytes >= INT_MAX || size_ + ids_size_ + bytes >= kMaxBytes) {
      return TooLarge(layer.row_ids.size(), absl::StrCat("ids in layer ", layer.layer));
    }
    if (layer.layer != 0) layer.size += TagSize(kIdsLayerTag) + Wire::Int32Size(layer.layer);
    layer.size += FieldSize(kIdsTag, bytes);
    ids_size_ += TagSize(kIdsLayersTag) + layer.size +
                 CodedOutputStream::VarintSize32(static_cast<uint32_t>(layer.size));
  }
  size_ += TagSize(kRequestIdsTag) + ids_size_ +
           CodedOutputStream::VarintSize32(static_cast<uint32_t>(ids_size_));
  return absl::OkStatus();
}

absl::Status RequestEncoder::SizeTokens() {
  const TokenBatch& batch = tokens_.batch;
  tokens_.lengths_size = PackedSize(batch.lengths);
  tokens_.lookbacks_size = PackedSize(batch.lookbacks);
  for (const Layer& layer : layers_) {
    ENGRAM_RETURN_IF_ERROR(CheckNoIds(layer.layer, layer.row_ids.size()));
    tokens_.layers_size += Wire::Int32Size(layer.layer);
  }
  const size_t ids = batch.token_ids.size() * sizeof(int32_t);
  if (ids >= INT_MAX ||
      size_ + ids + tokens_.lengths_size + tokens_.lookbacks_size + tokens_.layers_size >=
          kMaxBytes) {
    return TooLarge(batch.token_ids.size(), "token ids");
  }
  tokens_.size = FieldSize(kTokenIdsTag, ids) + FieldSize(kLengthsTag, tokens_.lengths_size) +
                 FieldSize(kLookbacksTag, tokens_.lookbacks_size) +
                 FieldSize(kTokenLayersTag, tokens_.layers_size) +
                 (batch.compressed ? TagSize(kCompressedTag) + 1 : 0);
  size_ += TagSize(kRequestTokensTag) + tokens_.size +
           CodedOutputStream::VarintSize32(static_cast<uint32_t>(tokens_.size));
  return absl::OkStatus();
}

void RequestEncoder::Write(uint8_t* out) const {
  out = WriteRaw(head_.data(), head_.size(), out);
  out = tokens_.present ? WriteTokens(out) : WriteLayers(out);
  WriteRaw(tail_.data(), tail_.size(), out);
}

uint8_t* RequestEncoder::WriteLayers(uint8_t* out) const {
  out = WriteHeader(kRequestIdsTag, ids_size_, out);
  for (const Layer& layer : layers_) {
    out = WriteHeader(kIdsLayersTag, layer.size, out);
    if (layer.layer != 0) {
      out = CodedOutputStream::WriteVarint32ToArray(kIdsLayerTag, out);
      out = CodedOutputStream::WriteVarint32SignExtendedToArray(layer.layer, out);
    }
    out = WriteBytes(kIdsTag, layer.row_ids.data(), layer.row_ids.size() * sizeof(uint32_t), out);
  }
  return out;
}

uint8_t* RequestEncoder::WriteTokens(uint8_t* out) const {
  const TokenBatch& batch = tokens_.batch;
  out = WriteHeader(kRequestTokensTag, tokens_.size, out);
  out = WriteBytes(kTokenIdsTag, batch.token_ids.data(), batch.token_ids.size() * sizeof(int32_t),
                   out);
  out = WritePacked(kLengthsTag, batch.lengths, tokens_.lengths_size, out);
  out = WritePacked(kLookbacksTag, batch.lookbacks, tokens_.lookbacks_size, out);
  if (!layers_.empty()) {
    out = WriteHeader(kTokenLayersTag, tokens_.layers_size, out);
    for (const Layer& layer : layers_) {
      out = CodedOutputStream::WriteVarint32SignExtendedToArray(layer.layer, out);
    }
  }
  if (!batch.compressed) return out;
  out = CodedOutputStream::WriteVarint32ToArray(kCompressedTag, out);
  *out++ = 1;
  return out;
}

}  // namespace engram
