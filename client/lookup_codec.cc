#include "client/lookup_codec.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/wire_status.h"
#include "engram/v1/store.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::ZeroCopyInputStream;
using Wire = google::protobuf::internal::WireFormatLite;

static_assert(std::endian::native == std::endian::little, "row ids are little-endian on the wire");
static_assert(static_cast<int>(v1::LookupRequest::kLayersFieldNumber) ==
              static_cast<int>(v1::PrefetchRequest::kLayersFieldNumber));

constexpr uint32_t Varint(int field) { return Wire::MakeTag(field, Wire::WIRETYPE_VARINT); }
constexpr uint32_t Bytes(int field) {
  return Wire::MakeTag(field, Wire::WIRETYPE_LENGTH_DELIMITED);
}

constexpr uint32_t kRequestLayersTag = Bytes(v1::LookupRequest::kLayersFieldNumber);
constexpr uint32_t kIdsLayerTag = Varint(v1::LayerRowIds::kLayerFieldNumber);
constexpr uint32_t kIdsTag = Bytes(v1::LayerRowIds::kRowIdsFieldNumber);

size_t TagSize(uint32_t tag) { return CodedOutputStream::VarintSize32(tag); }

absl::Status Malformed(const CodedInputStream& in, absl::string_view message) {
  return absl::DataLossError(
      absl::StrCat("the daemon's ", message, " is malformed near byte ", in.CurrentPosition()));
}

std::string Where(const LookupRequest& request, int32_t layer) {
  return absl::StrCat("layer ", layer, " of table \"", request.table, "\"");
}

// Reads a length and steps over as many bytes.
bool ScanBytes(CodedInputStream& in, ByteRange& range) {
  int size = 0;
  if (!in.ReadVarintSizeAsInt(&size)) return false;
  range = {static_cast<size_t>(in.CurrentPosition()), static_cast<size_t>(size)};
  return in.Skip(size);
}

bool ScanServed(CodedInputStream& in, LayerAnswer& answer) {
  v1::TierCounts served;
  if (!Wire::ReadMessage(&in, &served)) return false;
  answer.hbm_rows = served.hbm();
  answer.dram_rows = served.dram();
  answer.nvme_rows = served.nvme();
  return true;
}

bool ScanFailure(CodedInputStream& in, LayerAnswer& answer) {
  v1::RowFailure failure;
  if (!Wire::ReadMessage(&in, &failure)) return false;
  absl::Status status = StatusFromWire(failure.code(), failure.message());
  if (status.ok()) status = absl::UnknownError(failure.message());
  answer.failures.push_back({failure.position(), std::move(status)});
  return true;
}

bool ScanLayerFields(CodedInputStream& in, ScannedLayer& layer) {
  LayerAnswer& answer = layer.answer;
  bool ok = true;
  while (ok) {
    const uint32_t tag = in.ReadTag();
    uint32_t value = 0;
    switch (tag) {
      case 0:
        return in.ConsumedEntireMessage();
      case Varint(v1::LayerRows::kLayerFieldNumber): {
        // An int32 below zero takes the ten bytes of a 64-bit varint.
        uint64_t wide = 0;
        ok = in.ReadVarint64(&wide);
        answer.layer = static_cast<int32_t>(wide);
        break;
      }
      case Varint(v1::LayerRows::kRowBytesFieldNumber):
        ok = in.ReadVarint32(&value);
        answer.row_bytes = value;
        break;
      case Bytes(v1::LayerRows::kServedFieldNumber):
        ok = ScanServed(in, answer);
        break;
      case Bytes(v1::LayerRows::kFailuresFieldNumber):
        ok = ScanFailure(in, answer);
        break;
      case Bytes(v1::LayerRows::kTiersFieldNumber):
        ok = ScanBytes(in, layer.tiers);
        break;
      case Bytes(v1::LayerRows::kRowsFieldNumber):
        ok = ScanBytes(in, layer.rows);
        break;
      default:
        ok = Wire::SkipField(&in, tag);
    }
  }
  return false;
}

bool ScanLayer(CodedInputStream& in, ScannedLayer& layer) {
  int size = 0;
  if (!in.ReadVarintSizeAsInt(&size)) return false;
  const auto [limit, depth] = in.IncrementRecursionDepthAndPushLimit(size);
  if (depth < 0 || !ScanLayerFields(in, layer)) return false;
  // CodedInputStream takes the end of the stream for the end of the message, even inside one.
  if (in.BytesUntilLimit() != 0) return false;
  return in.DecrementRecursionDepthAndPopLimit(limit);
}

absl::Status CheckFailures(const LookupRequest& request, const LayerAnswer& answer, size_t count) {
  if (answer.failures.empty()) return absl::OkStatus();
  const FailedRow& first = answer.failures.front();
  if (request.on_row_error == RowErrorPolicy::kFail) {
    return absl::InternalError(absl::StrCat(
        Where(request, answer.layer), ": the daemon answered with failed rows, the first at ",
        "position ", first.position, " (", first.status.ToString(), "), where none may be"));
  }
  for (const FailedRow& failure : answer.failures) {
    if (failure.position < count) continue;
    return absl::InternalError(absl::StrCat(Where(request, answer.layer), ": the daemon names ",
                                            "position ", failure.position, " as failed, of ", count,
                                            " ids"));
  }
  return absl::OkStatus();
}

struct Copy {
  ByteRange from;
  void* to = nullptr;
};

}  // namespace

absl::StatusOr<RequestEncoder> RequestEncoder::ForLookup(const LookupRequest& request,
                                                         uint64_t request_id) {
  RequestEncoder encoder;
  bool want_tiers = false;
  encoder.layers_.reserve(request.layers.size());
  for (const LayerRequest& layer : request.layers) {
    encoder.layers_.push_back({layer.layer, layer.row_ids, 0});
    if (layer.tiers.empty()) continue;
    want_tiers = true;
    if (layer.tiers.size() != layer.row_ids.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          Where(request, layer.layer), ": tiers has room for ", layer.tiers.size(),
          " entries, there are ", layer.row_ids.size(), " ids; make them equal or leave it empty"));
    }
  }
  v1::LookupRequest head;
  head.set_table(request.table);
  head.set_version(request.version);
  v1::LookupRequest tail;
  if (request.on_row_error == RowErrorPolicy::kZero) tail.set_on_row_error(v1::ON_ROW_ERROR_ZERO);
  tail.set_want_tiers(want_tiers);
  tail.set_request_id(request_id);
  tail.set_expect_table_digest(request.expect_table_digest);
  encoder.head_ = head.SerializeAsString();
  encoder.tail_ = tail.SerializeAsString();
  ENGRAM_RETURN_IF_ERROR(encoder.Finish());
  return encoder;
}

absl::StatusOr<RequestEncoder> RequestEncoder::ForPrefetch(const PrefetchRequest& request) {
  RequestEncoder encoder;
  encoder.layers_.reserve(request.layers.size());
  for (const PrefetchRequest::Layer& layer : request.layers) {
    encoder.layers_.push_back({layer.layer, layer.row_ids, 0});
  }
  v1::PrefetchRequest head;
  head.set_table(request.table);
  head.set_version(request.version);
  encoder.head_ = head.SerializeAsString();
  ENGRAM_RETURN_IF_ERROR(encoder.Finish());
  return encoder;
}

absl::Status RequestEncoder::Finish() {
  std::unordered_set<int32_t> seen;
  size_ = head_.size() + tail_.size();
  for (Layer& layer : layers_) {
    if (!seen.insert(layer.layer).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer.layer, " is named twice; put all its ids into one entry"));
    }
    const size_t bytes = layer.row_ids.size() * sizeof(uint32_t);
    // Checked layer by layer, so that no sum can overflow.
    if (bytes >= INT_MAX || size_ + bytes >= INT_MAX - 64) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a request with ", layer.row_ids.size(), " ids in layer ", layer.layer,
                       " exceeds the 2 GiB that a message can have; split it"));
    }
    if (layer.layer != 0) {
      layer.size += TagSize(kIdsLayerTag) + Wire::Int32Size(layer.layer);
    }
    if (bytes != 0) {
      layer.size += TagSize(kIdsTag) + CodedOutputStream::VarintSize32(static_cast<int>(bytes));
      layer.size += bytes;
    }
    size_ += TagSize(kRequestLayersTag) + layer.size +
             CodedOutputStream::VarintSize32(static_cast<uint32_t>(layer.size));
  }
  return absl::OkStatus();
}

void RequestEncoder::Write(uint8_t* out) const {
  const auto raw = [&out](const void* data, size_t size) {
    if (size != 0) std::memcpy(out, data, size);
    out += size;
  };
  raw(head_.data(), head_.size());
  for (const Layer& layer : layers_) {
    out = CodedOutputStream::WriteVarint32ToArray(kRequestLayersTag, out);
    out = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(layer.size), out);
    if (layer.layer != 0) {
      out = CodedOutputStream::WriteVarint32ToArray(kIdsLayerTag, out);
      out = CodedOutputStream::WriteVarint32SignExtendedToArray(layer.layer, out);
    }
    if (layer.row_ids.empty()) continue;
    const size_t bytes = layer.row_ids.size() * sizeof(uint32_t);
    out = CodedOutputStream::WriteVarint32ToArray(kIdsTag, out);
    out = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(bytes), out);
    raw(layer.row_ids.data(), bytes);
  }
  raw(tail_.data(), tail_.size());
}

absl::Status CheckLayer(const LookupRequest& request, ScannedLayer& layer) {
  const LayerAnswer& answer = layer.answer;
  const auto asked =
      std::find_if(request.layers.begin(), request.layers.end(),
                   [&](const LayerRequest& candidate) { return candidate.layer == answer.layer; });
  if (asked == request.layers.end()) {
    return absl::InternalError(absl::StrCat(Where(request, answer.layer),
                                            ": the daemon answered it, but nobody asked for it"));
  }
  layer.request_index = static_cast<size_t>(asked - request.layers.begin());
  const size_t count = asked->row_ids.size();
  const size_t want = count * answer.row_bytes;
  const std::string ids = absl::StrCat(count, " ids of ", answer.row_bytes, " bytes");
  if (answer.row_bytes == 0 || layer.rows.size != want) {
    return absl::InternalError(absl::StrCat(Where(request, answer.layer), ": the answer has ",
                                            layer.rows.size, " bytes of rows for ", ids));
  }
  if (!asked->tiers.empty() && layer.tiers.size != count) {
    return absl::InternalError(absl::StrCat(Where(request, answer.layer), ": the answer has ",
                                            layer.tiers.size, " tiers for ", count, " ids"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckFailures(request, answer, count));
  if (asked->out.size() != want) {
    layer.out_status = absl::InvalidArgumentError(
        absl::StrCat(Where(request, answer.layer), ": out has ", asked->out.size(), " bytes, ", ids,
                     " need exactly ", want));
  }
  return absl::OkStatus();
}

absl::StatusOr<ScannedAnswer> ScanLookupResponse(ZeroCopyInputStream* stream,
                                                 const LookupRequest& request) {
  CodedInputStream in(stream);
  ScannedAnswer scanned;
  std::vector<bool> seen(request.layers.size());
  bool ok = true;
  while (const uint32_t tag = ok ? in.ReadTag() : 0) {
    if (tag == Varint(v1::LookupResponse::kVersionFieldNumber)) {
      uint64_t version = 0;
      ok = in.ReadVarint64(&version);
      scanned.version = version;
    } else if (tag == Bytes(v1::LookupResponse::kLayersFieldNumber)) {
      ScannedLayer layer;
      ok = ScanLayer(in, layer);
      if (!ok) break;
      ENGRAM_RETURN_IF_ERROR(CheckLayer(request, layer));
      if (seen[layer.request_index]) {
        return absl::InternalError(
            absl::StrCat(Where(request, layer.answer.layer), ": the daemon answered it twice"));
      }
      seen[layer.request_index] = true;
      scanned.layers.push_back(std::move(layer));
    } else {
      ok = Wire::SkipField(&in, tag);
    }
  }
  if (!ok || !in.ConsumedEntireMessage()) return Malformed(in, "answer to Lookup");
  for (size_t i = 0; i < seen.size(); ++i) {
    if (seen[i]) continue;
    return absl::InternalError(
        absl::StrCat(Where(request, request.layers[i].layer), ": the daemon's answer lacks it"));
  }
  std::sort(scanned.layers.begin(), scanned.layers.end(),
            [](const auto& a, const auto& b) { return a.answer.layer < b.answer.layer; });
  for (const ScannedLayer& layer : scanned.layers) ENGRAM_RETURN_IF_ERROR(layer.out_status);
  return scanned;
}

absl::StatusOr<ScannedStreamResponse> ScanStreamResponse(ZeroCopyInputStream* stream) {
  CodedInputStream in(stream);
  ScannedStreamResponse scanned;
  v1::StreamLookupResponse small;  // all fields but the layer
  bool ok = true;
  while (const uint32_t tag = ok ? in.ReadTag() : 0) {
    uint64_t value = 0;
    switch (tag) {
      case Varint(v1::StreamLookupResponse::kRequestIdFieldNumber):
        ok = in.ReadVarint64(&value);
        small.set_request_id(value);
        break;
      case Varint(v1::StreamLookupResponse::kCodeFieldNumber):
        ok = in.ReadVarint64(&value);
        small.set_code(static_cast<int32_t>(value));
        break;
      case Bytes(v1::StreamLookupResponse::kMessageFieldNumber):
        ok = Wire::ReadString(&in, small.mutable_message());
        break;
      case Varint(v1::StreamLookupResponse::kLastFieldNumber):
        ok = in.ReadVarint64(&value);
        small.set_last(value != 0);
        break;
      case Varint(v1::StreamLookupResponse::kVersionFieldNumber):
        ok = in.ReadVarint64(&value);
        small.set_version(value);
        break;
      case Bytes(v1::StreamLookupResponse::kLayerFieldNumber):
        ok = scanned.layers.empty() && ScanLayer(in, scanned.layers.emplace_back());
        break;
      default:
        ok = Wire::SkipField(&in, tag);
    }
  }
  if (!ok || !in.ConsumedEntireMessage()) return Malformed(in, "answer to StreamLookup");
  scanned.request_id = small.request_id();
  scanned.status = StatusFromWire(small.code(), small.message());
  scanned.last = small.last();
  scanned.version = small.version();
  if (!scanned.status.ok()) scanned.layers.clear();
  return scanned;
}

absl::Status CopyRows(ZeroCopyInputStream* stream, const LookupRequest& request,
                      absl::Span<const ScannedLayer> layers) {
  std::vector<Copy> copies;
  copies.reserve(2 * layers.size());
  for (const ScannedLayer& layer : layers) {
    const LayerRequest& asked = request.layers[layer.request_index];
    copies.push_back({layer.rows, asked.out.data()});
    if (!asked.tiers.empty()) copies.push_back({layer.tiers, asked.tiers.data()});
  }
  // A stream only goes forward.
  std::sort(copies.begin(), copies.end(),
            [](const Copy& a, const Copy& b) { return a.from.begin < b.from.begin; });
  CodedInputStream in(stream);
  for (const Copy& copy : copies) {
    if (copy.from.size == 0) continue;
    const int gap = static_cast<int>(copy.from.begin) - in.CurrentPosition();
    if (!in.Skip(gap) || !in.ReadRaw(copy.to, static_cast<int>(copy.from.size))) {
      return Malformed(in, "answer");
    }
  }
  return absl::OkStatus();
}

}  // namespace engram
