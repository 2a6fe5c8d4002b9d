#include "storage/checkpoint/family_config.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {

absl::Status BadKey(const ModelConfig& config, absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(config.file(), ": ", key, " ", what));
}

absl::StatusOr<std::vector<LayerId>> ReadLayerIds(const ModelConfig& config, absl::string_view key,
                                                  uint64_t low) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers,
                          config.UnsignedList(key, low, std::numeric_limits<int32_t>::max()));
  if (numbers.empty() || numbers.size() > kMaxLayers) {
    return BadKey(config, key,
                  absl::StrCat("names ", numbers.size(), " layers, not 1 to ", kMaxLayers));
  }
  std::set<uint64_t> seen;
  std::vector<LayerId> ids;
  for (const uint64_t number : numbers) {
    if (!seen.insert(number).second) {
      return BadKey(config, key, absl::StrCat("names ", number, " twice"));
    }
    ids.push_back(LayerId{static_cast<int32_t>(number)});
  }
  return ids;
}

absl::Status ReadOrders(const ModelConfig& config, absl::string_view ngram_key,
                        absl::string_view heads_key, AddressingSpec& addressing) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t orders, config.Unsigned(ngram_key, 2, kMaxNgramSize));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t heads, config.Unsigned(heads_key, 1, kMaxHeads));
  addressing.max_ngram_size = static_cast<int32_t>(orders);
  addressing.heads = static_cast<int32_t>(heads);
  return absl::OkStatus();
}

absl::Status CheckColumns(const ModelConfig& config, absl::string_view key, size_t layers,
                          const AddressingSpec& addressing) {
  const uint64_t columns = ColumnsOf(addressing);
  if (layers * columns <= kMaxColumns) return absl::OkStatus();
  return BadKey(config, key,
                absl::StrCat("with ", columns, " columns a layer asks for ", layers * columns,
                             " columns; at most ", kMaxColumns, " are supported"));
}

LayerSpec LayerOfColumns(LayerId id, uint64_t row_bytes, std::vector<ColumnSpec> columns) {
  LayerSpec layer;
  layer.id = id;
  layer.row_bytes = static_cast<uint32_t>(row_bytes);
  layer.columns = std::move(columns);
  for (const ColumnSpec& column : layer.columns) layer.rows += column.rows;
  return layer;
}

absl::Status InConfig(const ModelConfig& config, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat(config.file(), ": describes an impossible table: ", status.message()));
}

absl::Status FinishSpec(const ModelConfig& config, TableSpec& spec) {
  std::sort(spec.layers.begin(), spec.layers.end(),
            [](const LayerSpec& a, const LayerSpec& b) { return a.id < b.id; });
  return InConfig(config, CheckTableSpec(spec));
}

}  // namespace engram
