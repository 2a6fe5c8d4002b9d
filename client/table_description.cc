#include "client/table_description.h"

#include <utility>

#include "engram/v1/store.pb.h"

namespace engram {

TableDescription DescriptionFromWire(const v1::TableInfo& info) {
  TableDescription table;
  table.name = info.name();
  table.version = info.version();
  table.active = info.active();
  table.state = info.state();
  table.family = info.family();
  table.row_format = info.row_format();
  table.checkpoint_digest = info.checkpoint_digest();
  table.table_digest = info.table_digest();
  table.rows = info.rows();
  table.bytes = info.bytes();
  table.max_ngram_size = info.addressing().max_ngram_size();
  table.heads = info.addressing().heads();
  table.base_size = info.addressing().base_size();
  table.pad_id = info.addressing().pad_id();
  table.compressed_vocab_size = info.addressing().compressed_vocab_size();
  table.layers.reserve(static_cast<size_t>(info.layers_size()));
  for (const v1::LayerInfo& wire : info.layers()) {
    LayerInfo layer;
    layer.layer = wire.layer();
    layer.rows = wire.rows();
    layer.row_bytes = wire.row_bytes();
    for (const v1::Column& column : wire.columns()) {
      layer.columns.push_back({column.order(), column.head(), column.rows()});
    }
    table.layers.push_back(std::move(layer));
  }
  return table;
}

}  // namespace engram
