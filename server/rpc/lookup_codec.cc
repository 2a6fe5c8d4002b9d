#include "server/rpc/lookup_codec.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/rpc/wire.h"

namespace engram {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

constexpr uint32_t BytesTag(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

// Appends the tag of a length-delimited field and its length.
void AppendHeader(int field, size_t length, std::string& out) {
  StringOutputStream stream(&out);
  CodedOutputStream coded(&stream);
  coded.WriteTag(BytesTag(field));
  coded.WriteVarint64(length);
}

// Failures can be as many as rows; an answer need not repeat the same text a million times.
constexpr size_t kMaxFailureTexts = 100;

// LayerRows but for its `rows`, which follow as a slice of their own.
std::string EncodePartHead(const Lookup::Part& part) {
  v1::LayerRows head;
  head.set_layer(Raw(part.stack->spec().id));
  head.set_row_bytes(part.stack->spec().row_bytes);
  head.mutable_served()->set_hbm(part.batch.served(TierKind::kHbm));
  head.mutable_served()->set_dram(part.batch.served(TierKind::kDram));
  head.mutable_served()->set_nvme(part.batch.served(TierKind::kNvme));
  for (const RowFailure& failure : part.batch.failures()) {
    v1::RowFailure& out = *head.add_failures();
    out.set_position(failure.position);
    out.set_code(static_cast<int>(failure.status.code()));
    if (head.failures_size() <= static_cast<int>(kMaxFailureTexts)) {
      out.set_message(std::string(failure.status.message()));
    }
  }
  if (!part.tiers.empty()) head.set_tiers(part.tiers.data(), part.tiers.size());
  std::string bytes = head.SerializeAsString();
  AppendHeader(v1::LayerRows::kRowsFieldNumber, part.rows_bytes(), bytes);
  return bytes;
}

grpc::Slice RowsSlice(const Lookup::Part& part) {
  using Holder = std::shared_ptr<std::byte>;
  return grpc::Slice(
      part.rows.get(), part.rows_bytes(), [](void* holder) { delete static_cast<Holder*>(holder); },
      new Holder(part.rows));
}

// Appends field `field`, a LayerRows, to a message that so far is `prefix`.
void AppendPart(const Lookup::Part& part, int field, std::string prefix,
                std::vector<grpc::Slice>& slices) {
  const std::string head = EncodePartHead(part);
  AppendHeader(field, head.size() + part.rows_bytes(), prefix);
  prefix += head;
  slices.emplace_back(prefix);
  if (part.rows_bytes() > 0) slices.push_back(RowsSlice(part));
}

template <typename T>
absl::Span<const T> Borrow(const google::protobuf::RepeatedField<T>& field) {
  return {field.data(), static_cast<size_t>(field.size())};
}

TokenQuery ToTokenQuery(const v1::TokenBatch& tokens) {
  return {.token_ids = tokens.token_ids(),
          .lengths = Borrow(tokens.lengths()),
          .lookbacks = Borrow(tokens.lookbacks()),
          .layers = Borrow(tokens.layers()),
          .compressed = tokens.compressed()};
}

// What a LookupRequest and a PrefetchRequest have in common.
template <typename Request>
LookupQuery RowsAsked(const Request& request) {
  LookupQuery query{.table = request.table(), .version = VersionId{request.version()}};
  query.layers.reserve(request.ids().layers_size());
  for (const v1::LayerRowIds& layer : request.ids().layers()) {
    query.layers.push_back({LayerId{layer.layer()}, layer.row_ids()});
  }
  if (request.has_tokens()) query.tokens = ToTokenQuery(request.tokens());
  query.expect_table_digest = request.expect_table_digest();
  return query;
}

// Counts the entries in `ids.layers`; false when the bytes are no message. `ids` may come in
// pieces, which the generated class would put together.
bool CountLayerEntries(CodedInputStream& in, size_t& entries) {
  int size = 0;
  if (!in.ReadVarintSizeAsInt(&size)) return false;
  const CodedInputStream::Limit limit = in.PushLimit(size);
  while (const uint32_t tag = in.ReadTag()) {
    entries += tag == BytesTag(v1::RowIdBatch::kLayersFieldNumber);
    if (!WireFormatLite::SkipField(&in, tag)) return false;
  }
  const bool whole = in.BytesUntilLimit() == 0;
  in.PopLimit(limit);
  return whole;
}

}  // namespace

absl::Status CheckEncodedRequest(const grpc::ByteBuffer& buffer, uint64_t* request_id) {
  constexpr int kIds = v1::LookupRequest::kIdsFieldNumber;
  constexpr int kTokens = v1::LookupRequest::kTokensFieldNumber;
  static_assert(kIds == static_cast<int>(v1::PrefetchRequest::kIdsFieldNumber));
  static_assert(kTokens == static_cast<int>(v1::PrefetchRequest::kTokensFieldNumber));
  constexpr uint32_t kRequestIdTag = WireFormatLite::MakeTag(
      v1::LookupRequest::kRequestIdFieldNumber, WireFormatLite::WIRETYPE_VARINT);
  grpc::ByteBuffer copy = buffer;
  grpc::ProtoBufferReader reader(&copy);
  if (!reader.status().ok()) return absl::OkStatus();  // Decode finds what is wrong
  CodedInputStream in(&reader);
  size_t entries = 0;
  bool by_ids = false;
  bool by_tokens = false;
  bool ok = true;
  while (const uint32_t tag = ok ? in.ReadTag() : 0) {
    by_ids = by_ids || tag == BytesTag(kIds);
    by_tokens = by_tokens || tag == BytesTag(kTokens);
    if (tag == BytesTag(kIds)) {
      ok = CountLayerEntries(in, entries);
    } else {
      ok = tag == kRequestIdTag && request_id != nullptr ? in.ReadVarint64(request_id)
                                                         : WireFormatLite::SkipField(&in, tag);
    }
  }
  if (by_ids && by_tokens) {
    return absl::InvalidArgumentError(
        "the request names both row ids and tokens: send two requests");
  }
  if (entries <= kMaxLayers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the request has ", entries,
                                                 " entries in `ids.layers`, more than the ",
                                                 kMaxLayers, " that a table may have"));
}

absl::Status CheckPolicy(const v1::LookupRequest& request) {
  if (v1::OnRowError_IsValid(request.on_row_error())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("on_row_error is ", static_cast<int>(request.on_row_error()),
                   ", which this daemon does not know: send ON_ROW_ERROR_FAIL or _ZERO"));
}

absl::StatusOr<std::optional<Urgency>> ToUrgency(v1::Urgency urgency) {
  switch (urgency) {
    case v1::URGENCY_UNSPECIFIED:
      return std::nullopt;
    case v1::URGENCY_DECODE:
      return Urgency::kDecode;
    case v1::URGENCY_PREFILL:
      return Urgency::kPrefill;
    case v1::URGENCY_PREFETCH:
      return Urgency::kPrefetch;
    case v1::URGENCY_BACKGROUND:
      return Urgency::kBackground;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("urgency is ", static_cast<int>(urgency),
                       ", which this daemon does not know: send one of Urgency's values, or none"));
  }
}

LookupQuery ToQuery(const v1::LookupRequest& request) {
  LookupQuery query = RowsAsked(request);
  query.fail_on_row_error = request.on_row_error() != v1::ON_ROW_ERROR_ZERO;
  query.want_tiers = request.want_tiers();
  return query;
}

LookupQuery ToQuery(const v1::PrefetchRequest& request) { return RowsAsked(request); }

grpc::ByteBuffer EncodeLookupResponse(const Lookup& lookup) {
  v1::LookupResponse head;
  head.set_version(Raw(lookup.version()));
  std::string prefix = head.SerializeAsString();
  std::vector<grpc::Slice> slices;
  slices.reserve(lookup.parts().size() * 2);
  for (const std::unique_ptr<Lookup::Part>& part : lookup.parts()) {
    AppendPart(*part, v1::LookupResponse::kLayersFieldNumber, std::move(prefix), slices);
    prefix.clear();
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

grpc::ByteBuffer EncodeStreamPart(const Lookup& lookup, size_t part, uint64_t request_id,
                                  bool last) {
  v1::StreamLookupResponse head;
  head.set_request_id(request_id);
  head.set_last(last);
  head.set_version(Raw(lookup.version()));
  std::vector<grpc::Slice> slices;
  AppendPart(*lookup.parts()[part], v1::StreamLookupResponse::kLayerFieldNumber,
             head.SerializeAsString(), slices);
  return grpc::ByteBuffer(slices.data(), slices.size());
}

grpc::ByteBuffer EncodeStreamError(const absl::Status& status, uint64_t request_id) {
  v1::StreamLookupResponse message;
  message.set_request_id(request_id);
  message.set_code(static_cast<int>(status.code()));
  message.set_message(std::string(status.message()));
  message.set_last(true);
  return Encode(message);
}

}  // namespace engram
