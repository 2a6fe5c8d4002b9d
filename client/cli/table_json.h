// A table's description as JSON, the same for `list` and `describe`. A template, so that no header
// includes the JSON library: Json is nlohmann::ordered_json.
#ifndef ENGRAM_CLIENT_CLI_TABLE_JSON_H_
#define ENGRAM_CLIENT_CLI_TABLE_JSON_H_

#include <utility>

#include "client/client.h"

namespace engram {

// The share of a page's block that holds no row bytes; 0 when the layout is unknown.
inline double PageWastePercent(const LayerInfo& layer) {
  if (layer.block_bytes == 0) return 0;
  const double used = static_cast<double>(layer.rows_per_page) * layer.row_bytes;
  return 100 * (1 - used / layer.block_bytes);
}

template <typename Json>
Json TableToJson(const TableDescription& table) {
  Json json;
  json["name"] = table.name;
  json["version"] = table.version;
  json["active"] = table.active;
  json["state"] = table.state;
  json["family"] = table.family;
  json["row_format"] = table.row_format;
  json["rows"] = table.rows;
  json["bytes"] = table.bytes;
  json["checkpoint_digest"] = table.checkpoint_digest;
  json["table_digest"] = table.table_digest;
  json["addressing"] = {{"max_ngram_size", table.max_ngram_size},
                        {"heads", table.heads},
                        {"base_size", table.base_size},
                        {"pad_id", table.pad_id},
                        {"compressed_vocab_size", table.compressed_vocab_size},
                        {"hash", table.hash},
                        {"vocab_size", table.vocab_size},
                        {"boundary_id", table.boundary_id}};
  json["token_map_size"] = table.token_map_size;
  json["token_map_digest"] = table.token_map_digest;
  json["layers"] = Json::array();
  for (const LayerInfo& info : table.layers) {
    Json layer;
    layer["layer"] = info.layer;
    layer["rows"] = info.rows;
    layer["row_bytes"] = info.row_bytes;
    layer["bytes"] = info.rows * info.row_bytes;
    layer["columns"] = Json::array();
    for (const ColumnInfo& column : info.columns) {
      layer["columns"].push_back(
          {{"order", column.order}, {"head", column.head}, {"rows", column.rows}});
    }
    layer["multipliers"] = info.multipliers;
    layer["row_scale"] = info.row_scale;
    layer["rows_per_page"] = info.rows_per_page;
    layer["block_bytes"] = info.block_bytes;
    layer["waste_percent"] = PageWastePercent(info);
    layer["disk_bytes"] = info.disk_bytes;
    json["layers"].push_back(std::move(layer));
  }
  return json;
}

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_TABLE_JSON_H_
