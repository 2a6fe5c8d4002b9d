#include "storage/nvme/catalog_record.h"

#include <nlohmann/json.hpp>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "storage/base/status_macros.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

using Json = nlohmann::json;

absl::Status Damaged(absl::string_view key, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("catalog record ", key, " is damaged: ", why));
}

absl::Status CheckFormat(absl::string_view key, const Json& json) {
  const int format = json.at("format").get<int>();
  if (format == kCatalogFormat) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "catalog record ", key, " has format version ", format, "; this build reads version ",
      kCatalogFormat, ". Use the release that wrote it, or drop the version and load it again"));
}

// Chunks must cover each layer from row 0 to its end, in order, in whole pages.
absl::Status CheckChunks(absl::string_view key, const CatalogRecord& record) {
  const TableSpec& spec = record.table.spec;
  size_t next = 0;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const PageGeometry& geometry = record.geometry[i];
    if (geometry.rows_per_page == 0 || geometry.row_bytes != layer.row_bytes) {
      return Damaged(key, absl::StrCat("impossible pages of layer ", Raw(layer.id)));
    }
    uint64_t row = 0;
    for (uint32_t index = 0; row < layer.rows; ++index, ++next) {
      const Chunk* chunk = next < record.table.chunks.size() ? &record.table.chunks[next] : nullptr;
      if (chunk == nullptr || chunk->layer != layer.id || chunk->index != index ||
          chunk->first != row || chunk->rows == 0 || chunk->rows > layer.rows - row ||
          chunk->first % geometry.rows_per_page != 0) {
        return Damaged(key, absl::StrCat("chunks do not cover layer ", Raw(layer.id)));
      }
      row += chunk->rows;
    }
  }
  if (next != record.table.chunks.size()) return Damaged(key, "chunks of no layer");
  return absl::OkStatus();
}

absl::Status FillTableRecord(absl::string_view key, const Json& json, CatalogRecord& record) {
  ENGRAM_RETURN_IF_ERROR(CheckFormat(key, json));
  TableRecord& table = record.table;
  const std::string spec_json = json.at("spec").dump();
  absl::StatusOr<TableSpec> spec = ParseTableSpec(spec_json);
  if (!spec.ok()) return Damaged(key, spec.status().message());
  table.spec = *std::move(spec);
  const std::string state = json.at("state").get<std::string>();
  if (state != "loading" && state != "published") return Damaged(key, "unknown state " + state);
  table.state = state == "loading" ? TableState::kLoading : TableState::kPublished;
  json.at("table_digest").get_to(table.table_digest);
  const Json& pages = json.at("pages");
  if (pages.size() != table.spec.layers.size()) return Damaged(key, "pages of some layer missing");
  for (size_t i = 0; i < pages.size(); ++i) {
    record.geometry.push_back({table.spec.layers[i].row_bytes,
                               pages[i].at("rows_per_page").get<uint32_t>(),
                               pages[i].at("block_bytes").get<uint32_t>()});
  }
  for (const Json& chunk : json.at("chunks")) {
    table.chunks.push_back({LayerId{chunk.at("layer").get<int32_t>()},
                            chunk.at("index").get<uint32_t>(), chunk.at("first").get<uint64_t>(),
                            chunk.at("rows").get<uint64_t>(),
                            chunk.at("digest").get<std::string>()});
  }
  if (table.state == TableState::kPublished &&
      table.table_digest != TableDigest(spec_json, table.chunks)) {
    return Damaged(key, "its digest does not match its spec and chunks");
  }
  return CheckChunks(key, record);
}

absl::StatusOr<VersionName> SplitVersion(absl::string_view text, char separator,
                                         absl::string_view whole) {
  VersionName result;
  const size_t at = text.rfind(separator);
  uint64_t version = 0;
  if (at == absl::string_view::npos || !CheckTableName(text.substr(0, at)).ok() ||
      !absl::SimpleAtoi(text.substr(at + 1), &version)) {
    return absl::InvalidArgumentError(absl::StrCat("'", whole, "' names no table version"));
  }
  result.name = std::string(text.substr(0, at));
  result.version = VersionId{version};
  return result;
}

}  // namespace

const PageGeometry* CatalogRecord::FindGeometry(LayerId layer) const {
  for (size_t i = 0; i < table.spec.layers.size(); ++i) {
    if (table.spec.layers[i].id == layer) return &geometry[i];
  }
  return nullptr;
}

std::string TableKey(absl::string_view name, VersionId version) {
  return absl::StrFormat("%s%s/%020d", kTablePrefix, name, Raw(version));
}

std::string ActiveKey(absl::string_view name) { return absl::StrCat(kActivePrefix, name); }

std::string TokenMapKey(absl::string_view name, VersionId version) {
  return absl::StrFormat("%s%s/%020d", kTokenMapPrefix, name, Raw(version));
}

std::string ChunkPrefix(absl::string_view name, VersionId version) {
  return absl::StrFormat("%s%s/%020d/", kChunkPrefix, name, Raw(version));
}

std::string ChunkKey(absl::string_view name, VersionId version, const Chunk& chunk) {
  return absl::StrFormat("%s%d/%06d", ChunkPrefix(name, version), Raw(chunk.layer), chunk.index);
}

std::string VersionLabel(absl::string_view name, VersionId version) {
  return absl::StrCat(name, "@", Raw(version));
}

std::string FamilyName(absl::string_view name, VersionId version, LayerId layer) {
  return absl::StrCat(VersionLabel(name, version), "/", Raw(layer));
}

absl::StatusOr<VersionName> ParseTableKey(absl::string_view key) {
  absl::string_view rest = key;
  if (!absl::ConsumePrefix(&rest, kTablePrefix)) {
    return absl::InvalidArgumentError(absl::StrCat("'", key, "' is no table record"));
  }
  return SplitVersion(rest, '/', key);
}

absl::StatusOr<VersionName> ParseVersionLabel(absl::string_view label_or_family) {
  return SplitVersion(label_or_family.substr(0, label_or_family.find('/')), '@', label_or_family);
}

std::string EncodeTableRecord(const CatalogRecord& record) {
  const TableRecord& table = record.table;
  Json pages = Json::array();
  for (const PageGeometry& geometry : record.geometry) {
    pages.push_back(
        {{"rows_per_page", geometry.rows_per_page}, {"block_bytes", geometry.block_bytes}});
  }
  Json chunks = Json::array();
  for (const Chunk& chunk : table.chunks) {
    chunks.push_back({{"layer", Raw(chunk.layer)},
                      {"index", chunk.index},
                      {"first", chunk.first},
                      {"rows", chunk.rows},
                      {"digest", chunk.digest}});
  }
  const Json json = {{"format", kCatalogFormat},
                     {"state", table.state == TableState::kLoading ? "loading" : "published"},
                     {"spec", Json::parse(TableSpecToJson(table.spec))},
                     {"pages", std::move(pages)},
                     {"chunks", std::move(chunks)},
                     {"table_digest", table.table_digest}};
  return json.dump();
}

absl::StatusOr<CatalogRecord> DecodeTableRecord(absl::string_view key, absl::string_view text) {
  CatalogRecord record;
  try {
    const Json json = Json::parse(text.begin(), text.end());
    ENGRAM_RETURN_IF_ERROR(FillTableRecord(key, json, record));
  } catch (const Json::exception& error) {
    return Damaged(key, error.what());
  }
  if (TableKey(record.table.spec.name, record.table.spec.version) != key) {
    return Damaged(key, absl::StrCat("it holds ", VersionLabel(record.table.spec.name,
                                                               record.table.spec.version)));
  }
  return record;
}

std::string EncodeChunkRecord(const Chunk& chunk, uint64_t file_bytes) {
  const Json json = {{"format", kCatalogFormat},
                     {"first", chunk.first},
                     {"rows", chunk.rows},
                     {"digest", chunk.digest},
                     {"file_bytes", file_bytes}};
  return json.dump();
}

absl::StatusOr<ChunkRecord> DecodeChunkRecord(absl::string_view key, absl::string_view text,
                                              const Chunk& chunk) {
  ChunkRecord record;
  try {
    const Json json = Json::parse(text.begin(), text.end());
    ENGRAM_RETURN_IF_ERROR(CheckFormat(key, json));
    if (json.at("first").get<uint64_t>() != chunk.first ||
        json.at("rows").get<uint64_t>() != chunk.rows) {
      return Damaged(key, "it is of other rows");
    }
    json.at("digest").get_to(record.digest);
    json.at("file_bytes").get_to(record.file_bytes);
  } catch (const Json::exception& error) {
    return Damaged(key, error.what());
  }
  if (record.digest.empty()) return Damaged(key, "it has no digest");
  return record;
}

std::string EncodeActiveRecord(VersionId version) {
  return Json{{"format", kCatalogFormat}, {"version", Raw(version)}}.dump();
}

absl::StatusOr<VersionId> DecodeActiveRecord(absl::string_view key, absl::string_view text) {
  try {
    const Json json = Json::parse(text.begin(), text.end());
    ENGRAM_RETURN_IF_ERROR(CheckFormat(key, json));
    return VersionId{json.at("version").get<uint64_t>()};
  } catch (const Json::exception& error) {
    return Damaged(key, error.what());
  }
}

std::string TableDigest(absl::string_view spec_json, absl::Span<const Chunk> chunks) {
  Digest digest;
  digest.Update(spec_json);
  for (const Chunk& chunk : chunks) {
    digest.Update(absl::StrCat("\n", Raw(chunk.layer), " ", chunk.index, " ", chunk.first, " ",
                               chunk.rows, " ", chunk.digest));
  }
  return digest.Hex();
}

}  // namespace engram
