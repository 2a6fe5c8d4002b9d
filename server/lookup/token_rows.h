// From tokens to row ids, for the tables that have an n-gram hash: the part of a look-up and of a
// prefetch that knows about tokens.
//
// Pure functions over an OpenTable; safe from any thread. They allocate per layer, never per row.
#ifndef ENGRAM_SERVER_LOOKUP_TOKEN_ROWS_H_
#define ENGRAM_SERVER_LOOKUP_TOKEN_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/tables/tables.h"
#include "storage/table/ids.h"

namespace engram {

// As engram.v1.TokenBatch, which says what each field means. Borrows everything.
struct TokenQuery {
  absl::string_view token_ids = {};
  absl::Span<const uint32_t> lengths = {};
  absl::Span<const uint32_t> lookbacks = {};
  absl::Span<const int32_t> layers = {};
  bool compressed = false;
};

// Rows that one request may ask for by tokens: as many as 64 MiB of row ids name.
inline constexpr uint64_t kMaxTokenRows = uint64_t{16} << 20;

struct LayerRowIds {
  TierStack* stack = nullptr;
  std::vector<RowId> ids;  // in range, or RowId::kDeadPosition
};

// The rows that the tokens ask for, layer by layer, ascending. Everything is checked before memory
// for rows is taken. NotFound: no such layer. InvalidArgument: a token id that the model does not
// have, lengths or lookbacks that do not fit token_ids, a layer named twice. FailedPrecondition:
// the table's rows are addressed by id only; or raw ids for a table that has no token map.
// ResourceExhausted: rows of more than `max_row_bytes` in all, or more than kMaxTokenRows.
absl::StatusOr<std::vector<LayerRowIds>> RowsOfTokens(const OpenTable& table,
                                                      const TokenQuery& query,
                                                      uint64_t max_row_bytes);

// NotFound, naming table and layer.
absl::StatusOr<TierStack*> FindStack(const OpenTable& table, LayerId layer);

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_TOKEN_ROWS_H_
