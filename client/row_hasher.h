// RowHasher: the row ids that tokens ask for, made on the worker's own side from what the daemon
// says of the table; the same ids that a request by tokens (TokenBatch) looks up.
//
//   auto table = client->OpenTable("deepseek", expected);
//   auto map = client->FetchTokenMap("deepseek", table->version);  // only to hash raw token ids
//   auto hasher = engram::RowHasher::Create(*table, *std::move(map));
//   std::vector<uint32_t> ids(tokens.size() * *hasher->columns(1));
//   absl::Status status = hasher->Hash(1, {.token_ids = tokens}, absl::MakeSpan(ids));
//
// Immutable; safe from any thread. This header needs client.h's types, the standard library and
// Abseil.
#ifndef ENGRAM_CLIENT_ROW_HASHER_H_
#define ENGRAM_CLIENT_ROW_HASHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace engram {

struct TableDescription;
struct TokenBatch;

class RowHasher {
 public:
  // `token_map` is what Client::FetchTokenMap gives; without it a table that hashes compressed ids
  // takes only those. FailedPrecondition if the table's rows are addressed by id only, if its hash
  // is one that this client does not know, or if the map is not the table's (by its digest).
  // InvalidArgument if the map, or the description, is none that can be.
  static absl::StatusOr<RowHasher> Create(const TableDescription& table,
                                          std::vector<int32_t> token_map = {});
  RowHasher(RowHasher&&) noexcept;
  RowHasher& operator=(RowHasher&&) noexcept;
  ~RowHasher();

  // Rows a position in this layer. NotFound, naming those there are, if no such layer is hashed.
  absl::StatusOr<size_t> columns(int32_t layer) const;

  // Ids before a chunk that its rows depend on: max_ngram_size − 1.
  size_t lookback() const;

  // Fills `out`, positions × columns row ids, in the order in which a look-up by tokens answers;
  // kDeadPosition at dead positions. On error `out` is unspecified. InvalidArgument, naming value
  // and index, for a token id that the model does not have, for lengths and lookbacks that do not
  // fit, and for `out` of another size; FailedPrecondition, saying what to do, for raw ids without
  // the map that they need; NotFound as columns. Allocates 4 bytes for each raw id that it
  // compresses and one block of row ids, whatever their number.
  absl::Status Hash(int32_t layer, const TokenBatch& tokens, absl::Span<uint32_t> out) const;

 private:
  struct Rep;
  explicit RowHasher(std::unique_ptr<const Rep> rep);

  std::unique_ptr<const Rep> rep_;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_ROW_HASHER_H_
