#include "storage/table/spec.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"

namespace engram {
namespace {

using Json = nlohmann::json;

// nlohmann-json would convert 1e30 to an int without a word; only a whole number in range will do.
template <typename T>
T Integer(const Json& json) {
  const bool negative = json.is_number_integer() && !json.is_number_unsigned();
  const bool fits = negative ? std::in_range<T>(json.get<int64_t>())
                             : json.is_number_unsigned() && std::in_range<T>(json.get<uint64_t>());
  if (!fits) throw std::out_of_range(json.dump() + " is not a whole number in range");
  return static_cast<T>(negative ? static_cast<uint64_t>(json.get<int64_t>())
                                 : json.get<uint64_t>());
}

Json LayerToJson(const LayerSpec& layer) {
  Json columns = Json::array();
  for (const ColumnSpec& column : layer.columns) {
    columns.push_back({{"order", column.order}, {"head", column.head}, {"rows", column.rows}});
  }
  return {{"layer", Raw(layer.id)},           {"rows", layer.rows},
          {"row_bytes", layer.row_bytes},     {"columns", std::move(columns)},
          {"multipliers", layer.multipliers}, {"row_scale", layer.row_scale}};
}

LayerSpec LayerFromJson(const Json& json) {
  LayerSpec layer;
  layer.id = LayerId{Integer<int32_t>(json.at("layer"))};
  layer.rows = Integer<uint64_t>(json.at("rows"));
  layer.row_bytes = Integer<uint32_t>(json.at("row_bytes"));
  for (const Json& column : json.at("columns")) {
    layer.columns.push_back({Integer<int32_t>(column.at("order")),
                             Integer<int32_t>(column.at("head")),
                             Integer<uint64_t>(column.at("rows"))});
  }
  // A table of an earlier release has none of these.
  for (const Json& multiplier : json.value("multipliers", Json::array())) {
    layer.multipliers.push_back(Integer<int64_t>(multiplier));
  }
  layer.row_scale = json.value("row_scale", 0.0);
  return layer;
}

Json AddressingToJson(const AddressingSpec& a) {
  return {{"hash", HashKindName(a.hash)},
          {"max_ngram_size", a.max_ngram_size},
          {"heads", a.heads},
          {"base_size", a.base_size},
          {"pad_id", a.pad_id},
          {"compressed_vocab_size", a.compressed_vocab_size},
          {"vocab_size", a.vocab_size},
          {"boundary_id", a.boundary_id}};
}

HashKind HashKindFromJson(const Json& json) {
  const std::string name = json.get<std::string>();
  for (const HashKind kind : {HashKind::kNone, HashKind::kXorMultiply, HashKind::kPolynomial}) {
    if (name == HashKindName(kind)) return kind;
  }
  throw std::out_of_range("there is no hash '" + name.substr(0, 100) + "'");
}

template <typename T>
void ReadInteger(const Json& json, const char* key, T& out) {
  out = Integer<T>(json.at(key));
}

AddressingSpec AddressingFromJson(const Json& json) {
  AddressingSpec a;
  ReadInteger(json, "max_ngram_size", a.max_ngram_size);
  ReadInteger(json, "heads", a.heads);
  ReadInteger(json, "base_size", a.base_size);
  ReadInteger(json, "pad_id", a.pad_id);
  ReadInteger(json, "compressed_vocab_size", a.compressed_vocab_size);
  // Without these the table is of an earlier release, whose rows are addressed by id.
  if (!json.contains("hash")) return a;
  a.hash = HashKindFromJson(json.at("hash"));
  ReadInteger(json, "vocab_size", a.vocab_size);
  ReadInteger(json, "boundary_id", a.boundary_id);
  return a;
}

absl::Status CheckLayer(const LayerSpec& layer) {
  const auto bad = [&](absl::string_view what, uint64_t value) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", Raw(layer.id), ": ", what, " ", value, " is out of bounds"));
  };
  if (layer.rows == 0 || layer.rows > kMaxLayerRows) return bad("row count", layer.rows);
  if (layer.row_bytes == 0 || layer.row_bytes > kMaxRowBytes) {
    return bad("row size", layer.row_bytes);
  }
  uint64_t sum = 0;
  for (const ColumnSpec& column : layer.columns) sum += column.rows;
  if (!layer.columns.empty() && sum > layer.rows) return bad("sum of column sizes", sum);
  if (!std::isfinite(layer.row_scale) || layer.row_scale < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", Raw(layer.id), ": row scale ", layer.row_scale, " is impossible"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokenMap(const TableSpec& spec) {
  const bool hex = spec.token_map_digest.size() == 64 &&
                   std::all_of(spec.token_map_digest.begin(), spec.token_map_digest.end(),
                               [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (spec.token_map_size == 0 && spec.token_map_digest.empty()) return absl::OkStatus();
  if (spec.token_map_size > 0 && spec.token_map_size <= kMaxTokens && hex) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("a token map of ", spec.token_map_size,
                                                 " ids with digest '", spec.token_map_digest,
                                                 "' is impossible"));
}

}  // namespace

const LayerSpec* TableSpec::FindLayer(LayerId id) const {
  for (const LayerSpec& layer : layers) {
    if (layer.id == id) return &layer;
  }
  return nullptr;
}

uint64_t TableSpec::rows() const {
  uint64_t sum = 0;
  for (const LayerSpec& layer : layers) sum += layer.rows;
  return sum;
}

uint64_t TableSpec::bytes() const {
  uint64_t sum = 0;
  for (const LayerSpec& layer : layers) sum += layer.bytes();
  return sum;
}

const char* HashKindName(HashKind kind) {
  switch (kind) {
    case HashKind::kXorMultiply:
      return "xor-multiply";
    case HashKind::kPolynomial:
      return "polynomial";
    case HashKind::kNone:
      break;
  }
  return "none";
}

absl::Status CheckTableName(absl::string_view name) {
  bool good = !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' && name[0] != '-';
  for (const char c : name) {
    good = good &&
           (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-');
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "'", name.substr(0, kMaxNameLength), "' is not a table name: use 1 to ", kMaxNameLength,
      " letters, digits, '.', '_' or '-', beginning with a letter, ", "a digit or '_'"));
}

absl::Status CheckTableSpec(const TableSpec& spec) {
  if (spec.layers.empty() || spec.layers.size() > kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("a table has 1 to ", kMaxLayers, " layers, not ", spec.layers.size()));
  }
  const LayerSpec* previous = nullptr;
  for (const LayerSpec& layer : spec.layers) {
    ENGRAM_RETURN_IF_ERROR(CheckLayer(layer));
    if (spec.addressing.hash != HashKind::kNone) {
      ENGRAM_RETURN_IF_ERROR(NgramHasher::Create(spec.addressing, layer).status());
    }
    if (previous != nullptr && previous->id >= layer.id) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", Raw(layer.id), " follows layer ", Raw(previous->id)));
    }
    previous = &layer;
  }
  return CheckTokenMap(spec);
}

std::string TableSpecToJson(const TableSpec& spec) {
  Json layers = Json::array();
  for (const LayerSpec& layer : spec.layers) layers.push_back(LayerToJson(layer));
  const Json json = {{"name", spec.name},
                     {"version", Raw(spec.version)},
                     {"family", spec.family},
                     {"row_format", spec.row_format},
                     {"layers", std::move(layers)},
                     {"addressing", AddressingToJson(spec.addressing)},
                     {"token_map_size", spec.token_map_size},
                     {"token_map_digest", spec.token_map_digest},
                     {"checkpoint_digest", spec.checkpoint_digest}};
  return json.dump();
}

absl::StatusOr<TableSpec> ParseTableSpec(absl::string_view text) {
  TableSpec spec;
  try {
    const Json json = Json::parse(text.begin(), text.end());
    json.at("name").get_to(spec.name);
    spec.version = VersionId{Integer<uint64_t>(json.at("version"))};
    json.at("family").get_to(spec.family);
    json.at("row_format").get_to(spec.row_format);
    for (const Json& layer : json.at("layers")) spec.layers.push_back(LayerFromJson(layer));
    spec.addressing = AddressingFromJson(json.at("addressing"));
    if (json.contains("token_map_digest")) {
      ReadInteger(json, "token_map_size", spec.token_map_size);
      json.at("token_map_digest").get_to(spec.token_map_digest);
    }
    json.at("checkpoint_digest").get_to(spec.checkpoint_digest);
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat("table spec cannot be read: ", error.what()));
  }
  if (const absl::Status status = CheckTableSpec(spec); !status.ok()) {
    return absl::DataLossError(absl::StrCat("table spec is impossible: ", status.message()));
  }
  return spec;
}

}  // namespace engram
