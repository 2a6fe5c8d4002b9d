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
  // For kXorMultiply one for each shift 0 … max_ngram_size − 1; else empty.
  std::vector<int64_t> multipliers = {};
  // One factor for all values of the layer, where the model has one; 0 where it has none. Rows are
  // served without it: the decoder multiplies.
  double row_scale = 0;

  uint64_t bytes() const { return rows * row_bytes; }
  bool operator==(const LayerSpec&) const = default;
};

// How an n-gram becomes a row; ngram_hasher.h has the formulas.
enum class HashKind {
  kNone,         // rows are addressed by id only
  kXorMultiply,  // XOR of token × multiplier, modulo the column's rows
  kPolynomial,   // token + Σ earlier token × vocabulary^distance, modulo the column's rows
};

// The numbers of the n-gram hash that the model's config fixes.
struct AddressingSpec {
  HashKind hash = HashKind::kNone;
  int32_t max_ngram_size = 0;
  int32_t heads = 0;
  uint64_t base_size = 0;  // no column has fewer rows
  // Stands in for tokens before the sequence's start or behind its last boundary.
  int64_t pad_id = 0;
  // Tokens are hashed by their compressed ids, of which there are this many; 0: by their raw ids.
  int64_t compressed_vocab_size = 0;
  int64_t vocab_size = 0;    // raw ids are below it; 0 if it does not matter
  int64_t boundary_id = -1;  // a token behind which n-grams do not look (EOS); −1: there is none

  // Ids that are hashed are 0 … hashed_ids() − 1.
  int64_t hashed_ids() const {
    return compressed_vocab_size > 0 ? compressed_vocab_size : vocab_size;
  }

  bool operator==(const AddressingSpec&) const = default;
};

struct TableSpec {
  std::string name;
  VersionId version{};
  std::string family;             // "deepseek-v4.1"
  std::string row_format;         // for people and decoders: "f8_e4m3[256] f8_e8m0[8]"
  std::vector<LayerSpec> layers;  // ascending by id, which is the order in which they are needed
  AddressingSpec addressing;
  // The token map, raw to compressed ids, that is stored with the table: how many raw ids it has,
  // and the sha256, in hex, of its compressed ids as little-endian int32. 0 and empty: none.
  uint64_t token_map_size = 0;
  std::string token_map_digest;
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

// "none", "xor-multiply", "polynomial"
const char* HashKindName(HashKind kind);

// Checks every bound above, ascending distinct layers, that columns add up to their layer, and that
// a table with a hash has all that NgramHasher needs.
absl::Status CheckTableSpec(const TableSpec& spec);

// JSON, one object; what ParseTableSpec reads back to an equal spec.
std::string TableSpecToJson(const TableSpec& spec);

// DataLoss when `json` is not such an object or fails CheckTableSpec.
absl::StatusOr<TableSpec> ParseTableSpec(absl::string_view json);

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_SPEC_H_
