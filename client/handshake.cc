// CheckTable of client.h: what a model expects of a table, compared field by field.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// As an error shows it. A double in full, for two that differ may look alike when shortened.
std::string Text(const std::string& value) { return absl::StrCat("\"", value, "\""); }
std::string Text(double value) { return absl::StrFormat("%.17g", value); }
template <typename Integer>
std::string Text(Integer value) {
  return absl::StrCat(value);
}

class Comparison {
 public:
  explicit Comparison(const TableDescription& table) : table_(table) {}

  template <typename T>
  absl::Status Equal(absl::string_view what, const T& expected, const T& found) const {
    if (expected == found) return absl::OkStatus();
    return Differs(what, Text(expected), Text(found));
  }

  template <typename T>
  absl::Status Equal(absl::string_view what, const std::optional<T>& expected,
                     const T& found) const {
    return expected.has_value() ? Equal(what, *expected, found) : absl::OkStatus();
  }

  // Lists: the first element that differs, else how many there are.
  template <typename T>
  absl::Status EqualList(absl::string_view what, const std::vector<T>& expected,
                         const std::vector<T>& found) const {
    for (size_t i = 0; i < std::min(expected.size(), found.size()); ++i) {
      ENGRAM_RETURN_IF_ERROR(Equal(absl::StrCat(what, " ", i), expected[i], found[i]));
    }
    return Equal(absl::StrCat(what, " count"), expected.size(), found.size());
  }

  absl::Status Differs(absl::string_view what, absl::string_view expected,
                       absl::string_view found) const {
    return absl::FailedPreconditionError(absl::StrCat(
        "table \"", table_.name, "\" version ", table_.version, " is not the one expected: ", what,
        ": expected ", expected, ", found ", found));
  }

 private:
  const TableDescription& table_;
};

absl::Status CheckLayerIds(const Comparison& comparison, const TableDescription& table,
                           const TableExpectation& expected) {
  const auto join = [](const auto& layers) {
    return absl::StrJoin(layers, ", ", [](std::string* out, const auto& layer) {
      absl::StrAppend(out, layer.layer);
    });
  };
  const std::string want = join(expected.layers);
  const std::string got = join(table.layers);
  return want == got ? absl::OkStatus()
                     : comparison.Differs("layers", want, got.empty() ? "none" : got);
}

absl::Status CheckLayer(const Comparison& comparison, const LayerInfo& layer,
                        const LayerExpectation& expected) {
  const auto named = [&](absl::string_view what) {
    return absl::StrCat("layer ", layer.layer, " ", what);
  };
  ENGRAM_RETURN_IF_ERROR(comparison.Equal(named("rows"), expected.rows, layer.rows));
  ENGRAM_RETURN_IF_ERROR(comparison.Equal(named("row_bytes"), expected.row_bytes, layer.row_bytes));
  if (!expected.column_rows.empty()) {
    std::vector<uint64_t> found;
    for (const ColumnInfo& column : layer.columns) found.push_back(column.rows);
    ENGRAM_RETURN_IF_ERROR(comparison.EqualList(named("column"), expected.column_rows, found));
  }
  if (!expected.multipliers.empty()) {
    ENGRAM_RETURN_IF_ERROR(
        comparison.EqualList(named("multiplier"), expected.multipliers, layer.multipliers));
  }
  return comparison.Equal(named("row_scale"), expected.row_scale, layer.row_scale);
}

}  // namespace

absl::Status CheckTable(const TableDescription& table, const TableExpectation& expected) {
  const Comparison comparison(table);
  const auto check = [&](absl::string_view what, const auto& want, const auto& found) {
    return comparison.Equal(what, want, found);
  };
  ENGRAM_RETURN_IF_ERROR(check("family", expected.family, table.family));
  ENGRAM_RETURN_IF_ERROR(check("row_format", expected.row_format, table.row_format));
  ENGRAM_RETURN_IF_ERROR(check("hash", expected.hash, table.hash));
  ENGRAM_RETURN_IF_ERROR(check("max_ngram_size", expected.max_ngram_size, table.max_ngram_size));
  ENGRAM_RETURN_IF_ERROR(check("heads", expected.heads, table.heads));
  ENGRAM_RETURN_IF_ERROR(check("pad_id", expected.pad_id, table.pad_id));
  ENGRAM_RETURN_IF_ERROR(
      check("compressed_vocab_size", expected.compressed_vocab_size, table.compressed_vocab_size));
  ENGRAM_RETURN_IF_ERROR(check("vocab_size", expected.vocab_size, table.vocab_size));
  ENGRAM_RETURN_IF_ERROR(check("boundary_id", expected.boundary_id, table.boundary_id));
  if (!expected.layers.empty()) {
    ENGRAM_RETURN_IF_ERROR(CheckLayerIds(comparison, table, expected));
    for (size_t i = 0; i < expected.layers.size(); ++i) {
      ENGRAM_RETURN_IF_ERROR(CheckLayer(comparison, table.layers[i], expected.layers[i]));
    }
  }
  ENGRAM_RETURN_IF_ERROR(
      check("token_map_digest", expected.token_map_digest, table.token_map_digest));
  return check("table_digest", expected.table_digest, table.table_digest);
}

}  // namespace engram
