// TableSpec: everything that says what a table is, and nothing about where its rows lie.
//
// A spec comes from a checkpoint (storage/checkpoint), is stored as JSON in the catalog
// (storage/nvme) and is what a client compares in the handshake. Plain values; safe to share
// between threads while nobody changes them.
#ifndef ENGRAM_STORAGE_TABLE_SPEC_H_
#define ENGRAM_STORAGE_TABLE_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/table/ids.h"

namespace engram {

inline constexpr uint32_t kMaxRowBytes = 64 * 1024;
inline constexpr uint64_t kMaxLayerRows = 0xFFFFFFFFull;  // the id −1 is taken
inline constexpr size_t kMaxLayers = 1024;
inline constexpr size_t kMaxNameLength = 128;

// One (order, head) pair of the n-gram hash: `rows` consecutive rows of its layer.
struct ColumnSpec {
  int32_t order = 0;  // n of the n-gram, 2 and up
  int32_t head = 0;
  uint64_t rows = 0;

  bool operator==(const ColumnSpec&) const = default;
};

struct LayerSpec {
  LayerId id{};
  uint64_t rows = 0;
  uint32_t row_bytes = 0;
  std::vector<ColumnSpec> columns;  // in table order; empty if rows are addressed by id only

  uint64_t bytes() const { return rows * row_bytes; }
  bool operator==(const LayerSpec&) const = default;
};

// The numbers of the n-gram hash that the model's config fixes. All 0: no addressing.
struct AddressingSpec {
  int32_t max_ngram_size = 0;
  int32_t heads = 0;
  uint64_t base_size = 0;  // `engram_vocab_size`: each column's size is a prime not below it
  int64_t pad_id = 0;
  int64_t compressed_vocab_size = 0;

  bool operator==(const AddressingSpec&) const = default;
};

struct TableSpec {
  std::string name;
  VersionId version{};
  std::string family;             // "deepseek-v4.1"
  std::string row_format;         // for people and decoders: "f8_e4m3[256] f8_e8m0[8]"
  std::vector<LayerSpec> layers;  // ascending by id, which is the order in which they are needed
  AddressingSpec addressing;
  std::string checkpoint_digest;  // names the checkpoint that the rows came from

  // Null when there is no such layer.
  const LayerSpec* FindLayer(LayerId id) const;
  uint64_t rows() const;
  uint64_t bytes() const;
  bool operator==(const TableSpec&) const = default;
};

// Letters, digits, '.', '_' and '-', at most kMaxNameLength, not beginning with '.' or '-'.
// InvalidArgument naming the value otherwise.
absl::Status CheckTableName(absl::string_view name);

// Checks every bound above, ascending distinct layers, and that columns add up to their layer.
absl::Status CheckTableSpec(const TableSpec& spec);

// JSON, one object; what ParseTableSpec reads back to an equal spec.
std::string TableSpecToJson(const TableSpec& spec);

// DataLoss when `json` is not such an object or fails CheckTableSpec.
absl::StatusOr<TableSpec> ParseTableSpec(absl::string_view json);

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_SPEC_H_
