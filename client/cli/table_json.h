// A table's description as JSON, the same for `list` and `describe`: the message, and what follows
// from it. A template, so that no header includes the JSON library: Json is
// nlohmann::ordered_json.
#ifndef ENGRAM_CLIENT_CLI_TABLE_JSON_H_
#define ENGRAM_CLIENT_CLI_TABLE_JSON_H_

#include <cstddef>

#include "engram/v1/store.pb.h"
#include "proto/message_json.h"

namespace engram {

// The share of a page's block that holds no row bytes; 0 when the layout is unknown.
inline double PageWastePercent(const v1::LayerInfo& layer) {
  if (layer.block_bytes() == 0) return 0;
  const double used = static_cast<double>(layer.rows_per_page()) * layer.row_bytes();
  return 100 * (1 - used / layer.block_bytes());
}

template <typename Json>
Json TableToJson(const v1::TableInfo& table) {
  Json json = Json::parse(MessageToJson(table));
  for (int i = 0; i < table.layers_size(); ++i) {
    const v1::LayerInfo& layer = table.layers(i);
    Json& out = json["layers"][static_cast<size_t>(i)];
    out["bytes"] = layer.rows() * layer.row_bytes();
    out["waste_percent"] = PageWastePercent(layer);
  }
  return json;
}

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_TABLE_JSON_H_
