#include "client/grpc/lookup_codec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/grpc/request_encoder.h"
#include "client/grpc/wire_status.h"
#include "engram/v1/store.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::ZeroCopyInputStream;
using Wire = google::protobuf::internal::WireFormatLite;

constexpr uint32_t Varint(int field) { return Wire::MakeTag(field, Wire::WIRETYPE_VARINT); }
constexpr uint32_t Bytes(int field) {
  return Wire::MakeTag(field, Wire::WIRETYPE_LENGTH_DELIMITED);
}

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
                                            " rows"));
  }
  return absl::OkStatus();
}

// How many rows the answer has, which must be as many as the request names.
absl::StatusOr<size_t> CountRows(const LookupRequest& request, const LayerRequest& asked,
                                 const ScannedLayer& layer) {
  const uint32_t row_bytes = layer.answer.row_bytes;
  const auto unfit = [&](size_t count, absl::string_view what) {
    return absl::InternalError(absl::StrCat(Where(request, asked.layer), ": the answer has ",
                                            layer.rows.size, " bytes of rows for ", count, " ",
                                            what, " of ", row_bytes, " bytes"));
  };
  if (!request.tokens.has_value()) {
    const size_t count = asked.row_ids.size();
    if (row_bytes == 0 || layer.rows.size != count * row_bytes) return unfit(count, "ids");
    return count;
  }
  // How many columns a layer has the request does not say; that each position has as many, it does.
  ENGRAM_ASSIGN_OR_RETURN(const size_t positions, SequencesOf(*request.tokens).CountPositions());
  if (row_bytes == 0 || layer.rows.size % row_bytes != 0) return unfit(positions, "positions");
  const size_t count = layer.rows.size / row_bytes;
  const bool whole = positions == 0 ? count == 0 : count > 0 && count % positions == 0;
  if (!whole) return unfit(positions, "positions");
  return count;
}

struct Copy {
  ByteRange from;
  void* to = nullptr;
};

}  // namespace

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
  ENGRAM_ASSIGN_OR_RETURN(const size_t count, CountRows(request, *asked, layer));
  if (!asked->tiers.empty() && layer.tiers.size != count) {
    return absl::InternalError(absl::StrCat(Where(request, answer.layer), ": the answer has ",
                                            layer.tiers.size, " tiers for ", count, " rows"));
  }
  ENGRAM_RETURN_IF_ERROR(CheckFailures(request, answer, count));
  if (asked->out.size() != layer.rows.size) {
    layer.out_status = absl::InvalidArgumentError(absl::StrCat(
        Where(request, answer.layer), ": out has ", asked->out.size(), " bytes, ", count,
        " rows of ", answer.row_bytes, " bytes need exactly ", layer.rows.size));
  } else if (!asked->tiers.empty() && asked->tiers.size() != count) {
    layer.out_status = absl::InvalidArgumentError(
        absl::StrCat(Where(request, answer.layer), ": tiers has room for ", asked->tiers.size(),
                     " entries, there are ", count, " rows"));
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
