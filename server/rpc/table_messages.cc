#include "server/rpc/table_messages.h"

namespace engram {
namespace {

v1::HashKind ToHashKind(HashKind kind) {
  switch (kind) {
    case HashKind::kNone:
      return v1::HASH_KIND_NONE;
    case HashKind::kXorMultiply:
      return v1::HASH_KIND_XOR_MULTIPLY;
    case HashKind::kPolynomial:
      return v1::HASH_KIND_POLYNOMIAL;
  }
  return v1::HASH_KIND_UNSPECIFIED;
}

v1::Addressing ToAddressing(const AddressingSpec& spec) {
  v1::Addressing addressing;
  addressing.set_max_ngram_size(spec.max_ngram_size);
  addressing.set_heads(spec.heads);
  addressing.set_base_size(spec.base_size);
  addressing.set_pad_id(spec.pad_id);
  addressing.set_compressed_vocab_size(spec.compressed_vocab_size);
  addressing.set_hash(ToHashKind(spec.hash));
  addressing.set_vocab_size(spec.vocab_size);
  addressing.set_boundary_id(spec.boundary_id);
  return addressing;
}

v1::LayerInfo ToLayerInfo(const LayerSpec& layer) {
  v1::LayerInfo out;
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
  return out;
}

}  // namespace

v1::TableInfo ToTableInfo(const TableRecord& record, const Store& store) {
  const TableSpec& spec = record.spec;
  v1::TableInfo info;
  info.set_name(spec.name);
  info.set_version(Raw(spec.version));
  info.set_active(record.active);
  info.set_state(record.state == TableState::kPublished ? v1::TABLE_STATE_PUBLISHED
                                                        : v1::TABLE_STATE_LOADING);
  info.set_family(spec.family);
  info.set_row_format(spec.row_format);
  info.set_checkpoint_digest(spec.checkpoint_digest);
  info.set_table_digest(record.table_digest);
  info.set_rows(spec.rows());
  info.set_bytes(spec.bytes());
  *info.mutable_addressing() = ToAddressing(spec.addressing);
  info.set_token_map_size(spec.token_map_size);
  info.set_token_map_digest(spec.token_map_digest);
  for (const LayerSpec& layer : spec.layers) *info.add_layers() = ToLayerInfo(layer);
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
