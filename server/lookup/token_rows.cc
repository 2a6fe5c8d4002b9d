#include "server/lookup/token_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/token_sequences.h"

namespace engram {
namespace {

struct Tokens {
  std::vector<int32_t> ids;  // of all sequences, as they are hashed
  uint64_t positions = 0;    // that get rows
};

TokenSequences SequencesOf(const TokenQuery& query) {
  return {.ids = query.token_ids.size() / sizeof(int32_t),
          .lengths = query.lengths,
          .lookbacks = query.lookbacks};
}

absl::Status CheckCompressed(const OpenTable& table, const TokenQuery& query) {
  const TableSpec& spec = table.spec();
  if (spec.addressing.hash == HashKind::kNone) {
    return absl::FailedPreconditionError(
        absl::StrCat("table '", spec.name, "' version ", Raw(spec.version),
                     " has no n-gram hash: ask for its rows by id"));
  }
  if (spec.addressing.compressed_vocab_size > 0 && !query.compressed && !table.token_map) {
    return absl::FailedPreconditionError(absl::StrCat(
        "table '", spec.name, "' version ", Raw(spec.version),
        " has no token map to compress token ids with: send ids that are compressed already, or "
        "load a checkpoint that has its tokenizer.json"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tokens> ReadTokens(const OpenTable& table, const TokenQuery& query) {
  ENGRAM_RETURN_IF_ERROR(CheckCompressed(table, query));
  if (query.token_ids.size() % sizeof(int32_t) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: token_ids has ", query.token_ids.size(),
                                                   " bytes, which is no multiple of 4"));
  }
  Tokens tokens;
  const TokenSequences sequences = SequencesOf(query);
  ENGRAM_ASSIGN_OR_RETURN(tokens.positions, sequences.CountPositions());
  tokens.ids.resize(sequences.ids);
  if (sequences.ids > 0) {
    std::memcpy(tokens.ids.data(), query.token_ids.data(), query.token_ids.size());
  }
  if (table.spec().addressing.compressed_vocab_size > 0 && !query.compressed) {
    ENGRAM_RETURN_IF_ERROR(table.token_map->Compress(tokens.ids, absl::MakeSpan(tokens.ids)));
  }
  // All layers hash the same ids.
  ENGRAM_RETURN_IF_ERROR(table.hashers.front().Check(tokens.ids));
  return tokens;
}

// The layers asked for, as indexes into table.layers, ascending, each once.
absl::StatusOr<std::vector<size_t>> ChooseLayers(const OpenTable& table,
                                                 absl::Span<const int32_t> wanted) {
  if (wanted.size() > kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens: more than ", kMaxLayers, " layers are named"));
  }
  std::vector<size_t> chosen;
  for (const int32_t layer : wanted) {
    ENGRAM_ASSIGN_OR_RETURN(const TierStack* stack, FindStack(table, LayerId{layer}));
    const auto found = std::find_if(table.layers.begin(), table.layers.end(),
                                    [&](const auto& one) { return one.get() == stack; });
    chosen.push_back(static_cast<size_t>(found - table.layers.begin()));
  }
  for (size_t i = 0; wanted.empty() && i < table.layers.size(); ++i) chosen.push_back(i);
  std::sort(chosen.begin(), chosen.end());
  const auto twice = std::adjacent_find(chosen.begin(), chosen.end());
  if (twice == chosen.end()) return chosen;
  return absl::InvalidArgumentError(
      absl::StrCat("layer ", Raw(table.layers[*twice]->spec().id), " is named twice"));
}

std::vector<RowId> HashAll(const NgramHasher& hasher, const TokenSequences& sequences,
                           const Tokens& tokens) {
  std::vector<RowId> rows(tokens.positions * hasher.columns());
  size_t begin = 0;
  size_t done = 0;
  for (size_t i = 0; i < sequences.count(); ++i) {
    const size_t length = sequences.length(i);
    const TokenSpan sequence{absl::MakeConstSpan(tokens.ids).subspan(begin, length),
                             sequences.lookback(i)};
    const size_t count = sequence.positions() * hasher.columns();
    hasher.Hash(sequence, absl::MakeSpan(rows).subspan(done, count));
    begin += length;
    done += count;
  }
  return rows;
}

}  // namespace

absl::StatusOr<TierStack*> FindStack(const OpenTable& table, LayerId layer) {
  TierStack* const stack = table.FindLayer(layer);
  if (stack != nullptr) return stack;
  return absl::NotFoundError(absl::StrCat("table '", table.spec().name, "' has no layer ",
                                          Raw(layer), ": `engramctl describe` shows its layers"));
}

absl::StatusOr<std::vector<LayerRowIds>> RowsOfTokens(const OpenTable& table,
                                                      const TokenQuery& query,
                                                      uint64_t max_row_bytes) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<size_t> layers, ChooseLayers(table, query.layers));
  ENGRAM_ASSIGN_OR_RETURN(const Tokens tokens, ReadTokens(table, query));
  uint64_t rows = 0;  // of one position
  uint64_t row_bytes = 0;
  for (const size_t layer : layers) {
    rows += table.hashers[layer].columns();
    row_bytes += table.hashers[layer].columns() * table.layers[layer]->spec().row_bytes;
  }
  if (tokens.positions > max_row_bytes / row_bytes || tokens.positions > kMaxTokenRows / rows) {
    return absl::ResourceExhaustedError(
        absl::StrCat(tokens.positions, " tokens ask for ", rows, " rows each, ", row_bytes,
                     " bytes together, over the limit of ", max_row_bytes, " bytes or ",
                     kMaxTokenRows, " rows in all: send fewer tokens a call or raise max_answer"));
  }
  std::vector<LayerRowIds> result;
  for (const size_t layer : layers) {
    result.push_back(
        {table.layers[layer].get(), HashAll(table.hashers[layer], SequencesOf(query), tokens)});
  }
  return result;
}

}  // namespace engram
