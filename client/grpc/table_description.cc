#include "client/grpc/table_description.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engram/v1/store.pb.h"
#include "proto/message_json.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

LayerInfo LayerFromWire(const v1::LayerInfo& wire) {
  LayerInfo layer;
  layer.layer = wire.layer();
  layer.rows = wire.rows();
  layer.row_bytes = wire.row_bytes();
  for (const v1::Column& column : wire.columns()) {
    layer.columns.push_back({column.order(), column.head(), column.rows()});
  }
  layer.multipliers.assign(wire.multipliers().begin(), wire.multipliers().end());
  layer.row_scale = wire.row_scale();
  layer.rows_per_page = wire.rows_per_page();
  layer.block_bytes = wire.block_bytes();
  layer.disk_bytes = wire.disk_bytes();
  return layer;
}

absl::StatusOr<HashKind> ParseHashKind(const TableDescription& table) {
  if (table.hash.empty()) return HashKind::kNone;
  for (const HashKind kind : {HashKind::kNone, HashKind::kXorMultiply, HashKind::kPolynomial}) {
    if (table.hash == HashKindName(kind)) return kind;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("table \"", table.name, "\" has the hash \"", table.hash,
                   "\", which this client does not know; use one as new as the daemon"));
}

}  // namespace

TableDescription DescriptionFromWire(const v1::TableInfo& info) {
  TableDescription table;
  table.name = info.name();
  table.version = info.version();
  table.active = info.active();
  table.state = EnumWord(*v1::TableState_descriptor(), info.state());
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
  table.hash = EnumWord(*v1::HashKind_descriptor(), info.addressing().hash());
  table.vocab_size = info.addressing().vocab_size();
  // A daemon that sends no hash knows of no boundary either, and its 0 is only proto3's default.
  table.boundary_id = table.hash.empty() ? -1 : info.addressing().boundary_id();
  table.layers.reserve(static_cast<size_t>(info.layers_size()));
  for (const v1::LayerInfo& wire : info.layers()) table.layers.push_back(LayerFromWire(wire));
  table.token_map_size = info.token_map_size();
  table.token_map_digest = info.token_map_digest();
  return table;
}

TableDescription DescriptionFromSpec(const TableSpec& spec) {
  TableDescription table;
  table.name = spec.name;
  table.family = spec.family;
  table.row_format = spec.row_format;
  table.checkpoint_digest = spec.checkpoint_digest;
  table.rows = spec.rows();
  table.bytes = spec.bytes();
  table.max_ngram_size = spec.addressing.max_ngram_size;
  table.heads = spec.addressing.heads;
  table.base_size = spec.addressing.base_size;
  table.pad_id = spec.addressing.pad_id;
  table.compressed_vocab_size = spec.addressing.compressed_vocab_size;
  table.hash = HashKindName(spec.addressing.hash);
  table.vocab_size = spec.addressing.vocab_size;
  table.boundary_id = spec.addressing.boundary_id;
  for (const LayerSpec& from : spec.layers) {
    LayerInfo layer{.layer = Raw(from.id),
                    .rows = from.rows,
                    .row_bytes = from.row_bytes,
                    .columns = {},
                    .multipliers = from.multipliers,
                    .row_scale = from.row_scale};
    for (const ColumnSpec& column : from.columns) {
      layer.columns.push_back({column.order, column.head, column.rows});
    }
    table.layers.push_back(std::move(layer));
  }
  table.token_map_size = spec.token_map_size;
  table.token_map_digest = spec.token_map_digest;
  return table;
}

absl::StatusOr<TableSpec> SpecFromDescription(const TableDescription& table) {
  TableSpec spec;
  spec.name = table.name;
  spec.version = VersionId{table.version};
  spec.family = table.family;
  spec.row_format = table.row_format;
  ENGRAM_ASSIGN_OR_RETURN(spec.addressing.hash, ParseHashKind(table));
  spec.addressing.max_ngram_size = table.max_ngram_size;
  spec.addressing.heads = table.heads;
  spec.addressing.base_size = table.base_size;
  spec.addressing.pad_id = table.pad_id;
  spec.addressing.compressed_vocab_size = table.compressed_vocab_size;
  spec.addressing.vocab_size = table.vocab_size;
  spec.addressing.boundary_id = table.boundary_id;
  for (const LayerInfo& from : table.layers) {
    LayerSpec layer;
    layer.id = LayerId{from.layer};
    layer.rows = from.rows;
    layer.row_bytes = from.row_bytes;
    for (const ColumnInfo& column : from.columns) {
      layer.columns.push_back({column.order, column.head, column.rows});
    }
    layer.multipliers = from.multipliers;
    layer.row_scale = from.row_scale;
    spec.layers.push_back(std::move(layer));
  }
  spec.token_map_size = table.token_map_size;
  spec.token_map_digest = table.token_map_digest;
  spec.checkpoint_digest = table.checkpoint_digest;
  return spec;
}

}  // namespace engram
