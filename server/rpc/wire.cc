#include "server/rpc/wire.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

// Appends the tag of a length-delimited field and its length.
void AppendHeader(int field, size_t length, std::string& out) {
  StringOutputStream stream(&out);
  CodedOutputStream coded(&stream);
  coded.WriteTag(WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED));
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
  query.layers.reserve(request.layers_size());
  for (const v1::LayerRowIds& layer : request.layers()) {
    query.layers.push_back({LayerId{layer.layer()}, layer.row_ids()});
  }
  if (request.has_tokens()) query.tokens = ToTokenQuery(request.tokens());
  query.expect_table_digest = request.expect_table_digest();
  return query;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

bool Decode(const grpc::ByteBuffer& buffer, google::protobuf::Message& message) {
  grpc::ByteBuffer copy = buffer;  // shares the slices; the reader wants it mutable
  grpc::ProtoBufferReader reader(&copy);
  return reader.status().ok() && message.ParseFromZeroCopyStream(&reader);
}

absl::Status CheckLayerEntries(const grpc::ByteBuffer& buffer, uint64_t* request_id) {
  constexpr int kLayers = v1::LookupRequest::kLayersFieldNumber;
  static_assert(kLayers == static_cast<int>(v1::PrefetchRequest::kLayersFieldNumber));
  constexpr uint32_t kLayersTag =
      WireFormatLite::MakeTag(kLayers, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  constexpr uint32_t kRequestIdTag = WireFormatLite::MakeTag(
      v1::LookupRequest::kRequestIdFieldNumber, WireFormatLite::WIRETYPE_VARINT);
  grpc::ByteBuffer copy = buffer;
  grpc::ProtoBufferReader reader(&copy);
  if (!reader.status().ok()) return absl::OkStatus();  // Decode finds what is wrong
  google::protobuf::io::CodedInputStream in(&reader);
  size_t entries = 0;
  bool ok = true;
  while (const uint32_t tag = ok ? in.ReadTag() : 0) {
    entries += tag == kLayersTag;
    ok = tag == kRequestIdTag && request_id != nullptr ? in.ReadVarint64(request_id)
                                                       : WireFormatLite::SkipField(&in, tag);
  }
  if (entries <= kMaxLayers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the request has ", entries,
                                                 " entries in `layers`, more than the ", kMaxLayers,
                                                 " that a table may have"));
}

grpc::ByteBuffer Encode(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
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

v1::TableInfo ToTableInfo(const TableRecord& record, const Store& store) {
  const TableSpec& spec = record.spec;
  v1::TableInfo info;
  info.set_name(spec.name);
  info.set_version(Raw(spec.version));
  info.set_active(record.active);
  info.set_state(record.state == TableState::kPublished ? "published" : "loading");
  info.set_family(spec.family);
  info.set_row_format(spec.row_format);
  info.set_checkpoint_digest(spec.checkpoint_digest);
  info.set_table_digest(record.table_digest);
  info.set_rows(spec.rows());
  info.set_bytes(spec.bytes());
  v1::Addressing& addressing = *info.mutable_addressing();
  addressing.set_max_ngram_size(spec.addressing.max_ngram_size);
  addressing.set_heads(spec.addressing.heads);
  addressing.set_base_size(spec.addressing.base_size);
  addressing.set_pad_id(spec.addressing.pad_id);
  addressing.set_compressed_vocab_size(spec.addressing.compressed_vocab_size);
  addressing.set_hash(HashKindName(spec.addressing.hash));
  addressing.set_vocab_size(spec.addressing.vocab_size);
  addressing.set_boundary_id(spec.addressing.boundary_id);
  info.set_token_map_size(spec.token_map_size);
  info.set_token_map_digest(spec.token_map_digest);
  for (const LayerSpec& layer : spec.layers) {
    v1::LayerInfo& out = *info.add_layers();
    out.set_layer(Raw(layer.id));
    out.set_rows(layer.rows);
    out.set_row_bytes(layer.row_bytes);
    out.mutable_multipliers()->Add(layer.multipliers.begin(), layer.multipliers.end());
    out.set_row_scale(layer.row_scale);
    for (const ColumnSpec& column : layer.columns) {
      v1::Column& c = *out.add_columns();
      c.set_order(column.order);
      c.set_head(column.head);
      c.set_rows(column.rows);
    }
  }
  const auto layout = store.Layout(spec.name, spec.version);
  if (!layout.ok() || layout->size() != spec.layers.size()) return info;
  for (size_t i = 0; i < layout->size(); ++i) {
    v1::LayerInfo& out = *info.mutable_layers(static_cast<int>(i));
    out.set_rows_per_page((*layout)[i].rows_per_page);
    out.set_block_bytes((*layout)[i].block_bytes);
    out.set_disk_bytes((*layout)[i].disk_bytes);
  }
  return info;
}

}  // namespace engram
