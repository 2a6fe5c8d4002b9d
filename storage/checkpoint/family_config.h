// What the families' readings of config.json have in common.
//
// Pure functions; safe from any thread. Errors are InvalidArgument that names file and key.
#ifndef ENGRAM_STORAGE_CHECKPOINT_FAMILY_CONFIG_H_
#define ENGRAM_STORAGE_CHECKPOINT_FAMILY_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/checkpoint/model_config.h"
#include "storage/table/addressing.h"
#include "storage/table/spec.h"

namespace engram {

// "FILE: KEY WHAT"
absl::Status BadKey(const ModelConfig& config, absl::string_view key, absl::string_view what);

// 1 … kMaxLayers distinct layer numbers of at least `low`, in the config's order.
absl::StatusOr<std::vector<LayerId>> ReadLayerIds(const ModelConfig& config, absl::string_view key,
                                                  uint64_t low);

// Orders 2 … n and the heads of each, within the bounds of storage/table/addressing.h.
absl::Status ReadOrders(const ModelConfig& config, absl::string_view ngram_key,
                        absl::string_view heads_key, AddressingSpec& addressing);

// The columns of one layer.
inline uint64_t ColumnsOf(const AddressingSpec& addressing) {
  return static_cast<uint64_t>(addressing.max_ngram_size - 1) * addressing.heads;
}

// Whether so many layers stay within kMaxColumns, so that no config makes the search for primes
// long; `key` is the one that says how many they are.
absl::Status CheckColumns(const ModelConfig& config, absl::string_view key, size_t layers,
                          const AddressingSpec& addressing);

// A layer with as many rows as its columns have.
LayerSpec LayerOfColumns(LayerId id, uint64_t row_bytes, std::vector<ColumnSpec> columns);

// What the formulas of storage/table/addressing.h say against a config's numbers, with the file.
absl::Status InConfig(const ModelConfig& config, const absl::Status& status);

// Sorts the layers by id and checks the whole as CheckTableSpec does.
absl::Status FinishSpec(const ModelConfig& config, TableSpec& spec);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_FAMILY_CONFIG_H_
