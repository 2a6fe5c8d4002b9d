#include "client/row_hasher.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "client/grpc/request_encoder.h"
#include "client/grpc/table_description.h"
#include "storage/base/status_macros.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"

namespace engram {
namespace {

// Positions hashed at a time: their ids stay in the cache until they are copied out.
constexpr size_t kBlockPositions = 256;

static_assert(Raw(RowId::kDeadPosition) == kDeadPosition);

std::string Named(const TableSpec& spec) { return absl::StrCat("table \"", spec.name, "\""); }

absl::StatusOr<TokenMap> CheckedMap(const TableSpec& spec, std::vector<int32_t> compressed) {
  ENGRAM_ASSIGN_OR_RETURN(TokenMap map, TokenMap::Create(std::move(compressed)));
  if (map.digest() != spec.token_map_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat("the token map's digest is ", map.digest(), ", that of ", Named(spec), " is ",
                     spec.token_map_digest.empty() ? "none" : spec.token_map_digest,
                     "; take the map from Client::FetchTokenMap"));
  }
  const auto compressed_size = static_cast<int64_t>(map.compressed_size());
  if (compressed_size != spec.addressing.compressed_vocab_size) {
    return absl::FailedPreconditionError(absl::StrCat("the token map has ", compressed_size,
                                                      " compressed ids, ", Named(spec), " hashes ",
                                                      spec.addressing.compressed_vocab_size));
  }
  return map;
}

// One sequence's ids, in blocks. A block begins with as many ids before it as matter.
void HashSequence(const NgramHasher& hasher, const TokenSpan& tokens, absl::Span<RowId> block,
                  uint32_t* out) {
  for (size_t begin = tokens.lookback; begin < tokens.ids.size(); begin += kBlockPositions) {
    const size_t positions = std::min(kBlockPositions, tokens.ids.size() - begin);
    const size_t context = std::min(begin, hasher.lookback());
    const absl::Span<RowId> ids = block.first(positions * hasher.columns());
    hasher.Hash({tokens.ids.subspan(begin - context, context + positions), context}, ids);
    std::memcpy(out, ids.data(), ids.size() * sizeof(uint32_t));
    out += ids.size();
  }
}

}  // namespace

struct RowHasher::Rep {
  absl::StatusOr<const NgramHasher*> Find(int32_t layer) const;
  // The ids to be hashed: `tokens`' own, or `scratch` with the compressed ones.
  absl::StatusOr<absl::Span<const int32_t>> HashedIds(const TokenBatch& tokens,
                                                      std::vector<int32_t>& scratch) const;

  TableSpec spec;
  std::optional<TokenMap> map;
  std::map<int32_t, NgramHasher> hashers;  // of each layer that is hashed
};

absl::StatusOr<const NgramHasher*> RowHasher::Rep::Find(int32_t layer) const {
  const auto found = hashers.find(layer);
  if (found != hashers.end()) return &found->second;
  return absl::NotFoundError(
      absl::StrCat(Named(spec), " has no hashed layer ", layer, "; it has ",
                   absl::StrJoin(hashers, ", ", [](std::string* out, const auto& entry) {
                     absl::StrAppend(out, entry.first);
                   })));
}

absl::StatusOr<absl::Span<const int32_t>> RowHasher::Rep::HashedIds(
    const TokenBatch& tokens, std::vector<int32_t>& scratch) const {
  if (tokens.compressed || spec.addressing.compressed_vocab_size == 0) return tokens.token_ids;
  if (!map.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(
        Named(spec), " hashes compressed token ids, so raw ones need its token map: ",
        spec.token_map_digest.empty()
            ? "it has none, so give compressed ids, or load it from a checkpoint with "
              "tokenizer.json"
            : "give RowHasher::Create what Client::FetchTokenMap returns, or give compressed ids"));
  }
  scratch.resize(tokens.token_ids.size());
  ENGRAM_RETURN_IF_ERROR(map->Compress(tokens.token_ids, absl::MakeSpan(scratch)));
  return scratch;
}

RowHasher::RowHasher(std::unique_ptr<const Rep> rep) : rep_(std::move(rep)) {}
RowHasher::RowHasher(RowHasher&&) noexcept = default;
RowHasher& RowHasher::operator=(RowHasher&&) noexcept = default;
RowHasher::~RowHasher() = default;

absl::StatusOr<RowHasher> RowHasher::Create(const TableDescription& table,
                                            std::vector<int32_t> token_map) {
  auto rep = std::make_unique<Rep>();
  ENGRAM_ASSIGN_OR_RETURN(rep->spec, SpecFromDescription(table));
  if (rep->spec.addressing.hash == HashKind::kNone) {
    return absl::FailedPreconditionError(absl::StrCat(
        Named(rep->spec), " has no n-gram hash: its rows are addressed by row id only"));
  }
  if (!token_map.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(rep->map, CheckedMap(rep->spec, std::move(token_map)));
  }
  for (const LayerSpec& layer : rep->spec.layers) {
    if (layer.columns.empty()) continue;
    ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher, NgramHasher::Create(rep->spec.addressing, layer));
    rep->hashers.emplace(Raw(layer.id), std::move(hasher));
  }
  return RowHasher(std::move(rep));
}

absl::StatusOr<size_t> RowHasher::columns(int32_t layer) const {
  ENGRAM_ASSIGN_OR_RETURN(const NgramHasher* hasher, rep_->Find(layer));
  return hasher->columns();
}

size_t RowHasher::lookback() const {
  return static_cast<size_t>(rep_->spec.addressing.max_ngram_size - 1);
}

absl::Status RowHasher::Hash(int32_t layer, const TokenBatch& tokens,
                             absl::Span<uint32_t> out) const {
  ENGRAM_ASSIGN_OR_RETURN(const NgramHasher* hasher, rep_->Find(layer));
  const TokenSequences sequences = SequencesOf(tokens);
  ENGRAM_ASSIGN_OR_RETURN(const size_t positions, sequences.CountPositions());
  const size_t columns = hasher->columns();
  if (out.size() != positions * columns) {
    return absl::InvalidArgumentError(absl::StrCat("out has room for ", out.size(), " row ids, ",
                                                   positions, " positions of ", columns,
                                                   " columns need exactly ", positions * columns));
  }
  std::vector<int32_t> scratch;
  ENGRAM_ASSIGN_OR_RETURN(const absl::Span<const int32_t> ids, rep_->HashedIds(tokens, scratch));
  ENGRAM_RETURN_IF_ERROR(hasher->Check(ids));
  std::vector<RowId> block(std::min(positions, kBlockPositions) * columns);
  size_t begin = 0;
  uint32_t* next = out.data();
  for (size_t i = 0; i < sequences.count(); ++i) {
    const size_t length = sequences.length(i);
    const size_t lookback = sequences.lookback(i);
    HashSequence(*hasher, {ids.subspan(begin, length), lookback}, absl::MakeSpan(block), next);
    begin += length;
    next += (length - lookback) * columns;
  }
  return absl::OkStatus();
}

}  // namespace engram
