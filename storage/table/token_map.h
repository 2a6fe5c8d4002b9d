// TokenMap: from the ids of a model's tokenizer to the fewer, compressed ids that are hashed.
//
// Tokens that differ only in case, accents or white space share a compressed id; the map is part of
// the model, made once from its tokenizer.json (storage/checkpoint/tokenizer.h) and stored with the
// table. Compressed ids are dense and count up in order of first appearance.
//
// Immutable; copies share one array. Safe from any thread.
#ifndef ENGRAM_STORAGE_TABLE_TOKEN_MAP_H_
#define ENGRAM_STORAGE_TABLE_TOKEN_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram {

inline constexpr size_t kMaxTokens = size_t{1} << 24;

class TokenMap {
 public:
  // `compressed[raw]` for every raw id. InvalidArgument, naming id and value, unless it has
  // 1 … kMaxTokens entries that count up from 0 in order of first appearance.
  static absl::StatusOr<TokenMap> Create(std::vector<int32_t> compressed);

  // From bytes(), as stored or received. DataLoss if they are no such map, or if their digest is
  // not `digest`.
  static absl::StatusOr<TokenMap> Parse(absl::string_view bytes, absl::string_view digest);

  size_t size() const { return rep_->compressed.size(); }  // raw ids
  size_t compressed_size() const { return rep_->compressed_size; }
  absl::Span<const int32_t> compressed() const { return rep_->compressed; }

  // Little-endian int32, and their sha256 in hex.
  absl::string_view bytes() const;
  const std::string& digest() const { return rep_->digest; }

  // Replaces raw ids by compressed ones; −1 stays. InvalidArgument, naming value and index, for any
  // other id that the map does not have; `out` is then unspecified. Requires equal sizes; the spans
  // may be the same.
  absl::Status Compress(absl::Span<const int32_t> raw, absl::Span<int32_t> out) const;

 private:
  struct Rep {
    std::vector<int32_t> compressed;
    size_t compressed_size = 0;
    std::string digest;
  };
  explicit TokenMap(std::shared_ptr<const Rep> rep) : rep_(std::move(rep)) {}

  std::shared_ptr<const Rep> rep_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_TOKEN_MAP_H_
