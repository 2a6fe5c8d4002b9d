#include "storage/checkpoint/longcat.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/family_config.h"
#include "storage/checkpoint/layer_tensors.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

constexpr uint64_t kMaxDim = kMaxRowBytes / 2;
constexpr uint64_t kBf16Bytes = 2;
constexpr absl::string_view kLiteType = "longcat_flash_ngram";
constexpr absl::string_view kTwoPrefix = "oe_";

// What the two models call the same things.
struct Names {
  absl::string_view ratio;
  absl::string_view orders;
  absl::string_view splits;
  absl::string_view tables;  // before a table's number; "weight" is behind it
  bool padded;               // whether its tables may have rows past their size
  uint64_t dim;              // values of a row as released
};
constexpr Names kLite = {.ratio = "ngram_vocab_size_ratio",
                         .orders = "emb_neighbor_num",
                         .splits = "emb_split_num",
                         .tables = "ngram_embeddings.embedders.",
                         .padded = false,
                         .dim = 256};
constexpr Names kTwo = {.ratio = "oe_vocab_size_ratio",
                        .orders = "oe_neighbor_num",
                        .splits = "oe_split_num",
                        .tables = "oe_embed_tokens",
                        .padded = true,
                        .dim = 512};

const Names& NamesOf(const ModelConfig& config) { return config.Has(kTwo.ratio) ? kTwo : kLite; }

// Whether it is LongCat-Flash-Lite by its type and all of its keys, and has no key of another.
bool IsLite(const ModelConfig& config) {
  for (const std::string& key : config.Keys()) {
    if (absl::StartsWith(key, kTwoPrefix)) return false;
  }
  return config.model_type() == kLiteType && config.Has(kLite.ratio) && config.Has(kLite.orders) &&
         config.Has(kLite.splits);
}

// Refuses what is known to make other ids than those computed here, or may: no flag helps.
absl::Status CheckKnownHash(const ModelConfig& config) {
  constexpr absl::string_view kExclude = "ngram_exclude_sp_token";
  constexpr absl::string_view kSpecial =
      "special tokens are hashed in a way that is not known here, so its rows cannot be addressed";
  ENGRAM_ASSIGN_OR_RETURN(const bool exclude, config.Flag(kExclude));
  if (exclude) return BadKey(config, kExclude, absl::StrCat("is true: ", kSpecial));
  for (const std::string& key : config.Keys()) {
    const bool special = absl::EndsWith(key, "special_tokens_list") ||
                         absl::EndsWith(key, "special_token_list") || key == "special_token_scope";
    if (special && config.IsSet(key)) {
      return BadKey(config, key, absl::StrCat("is not empty: ", kSpecial));
    }
  }
  if (config.Has(kLite.ratio) && config.Has(kTwo.ratio)) {
    return BadKey(config, kTwo.ratio,
                  absl::StrCat("stands beside ", kLite.ratio,
                               "; which of the two sizes the tables cannot be told"));
  }
  for (const absl::string_view key : {"text_vocab_size", "vocab_size_text"}) {
    if (!config.Has(key)) continue;
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t text, config.Unsigned(key, 1, kMaxVocabulary));
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t vocab, config.Unsigned("vocab_size", 1, kMaxVocabulary));
    if (text == vocab) continue;
    return BadKey(config, key,
                  absl::StrCat("is ", text, " and vocab_size ", vocab,
                               ": models of several modalities are known to hash with the former, "
                               "which is not supported here"));
  }
  return absl::OkStatus();
}

absl::StatusOr<AddressingSpec> ReadAddressing(const ModelConfig& config, const Names& names) {
  AddressingSpec spec;
  spec.hash = HashKind::kPolynomial;
  ENGRAM_RETURN_IF_ERROR(ReadOrders(config, names.orders, names.splits, spec));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t vocab, config.Unsigned("vocab_size", 1, kMaxVocabulary));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> eos,
                          config.UnsignedOrList("eos_token_id", 0, vocab - 1));
  if (eos.size() != 1) {
    return BadKey(config, "eos_token_id",
                  absl::StrCat("has ", eos.size(), " ids; the boundary is one"));
  }
  spec.vocab_size = static_cast<int64_t>(vocab);
  spec.boundary_id = static_cast<int64_t>(eos[0]);
  return spec;
}

// Values of a row by the config; nothing if it does not say.
absl::StatusOr<std::optional<uint64_t>> ReadDim(const ModelConfig& config, uint64_t tables) {
  if (!config.Has("hidden_size") && !IsLite(config)) return std::nullopt;
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t hidden,
                          config.Unsigned("hidden_size", 1, kMaxDim * kMaxColumns));
  if (hidden % tables != 0 || hidden / tables > kMaxDim) {
    return BadKey(config, "hidden_size",
                  absl::StrCat("is ", hidden, ", which ", tables,
                               " tables do not share out into rows of 1 to ", kMaxDim, " values"));
  }
  return hidden / tables;
}

// The first table, by which all rows are as long as the config says.
absl::Status CheckFirst(const ModelConfig& config, const TensorRef& first, uint64_t tables) {
  ENGRAM_RETURN_IF_ERROR(CheckTensor(first, {"BF16", "F16", "F32"}, first.info->shape));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<uint64_t> dim, ReadDim(config, tables));
  const uint64_t length = first.info->shape[1];
  if (!dim || *dim == length) return absl::OkStatus();
  return BadTensor(
      first, absl::StrCat("has rows of ", length, " values, but hidden_size in ", config.file(),
                          ", shared out to ", tables, " tables, gives ", *dim,
                          "; put the config there that belongs to these weights"));
}

// A table, which must be of the first's dtype and row length, and have the column's rows.
absl::Status CheckTable(const TensorRef& table, const TensorRef& first, bool padded,
                        const ColumnSpec& column) {
  ENGRAM_RETURN_IF_ERROR(RowBytesOf(table).status());
  const uint64_t rows = table.info->shape[0];
  const bool served = padded && rows > column.rows;
  return CheckTensor(table, {first.info->dtype},
                     {served ? rows : column.rows, first.info->shape[1]});
}

}  // namespace

bool MatchesLongcat(const ModelConfig& config) {
  const std::string type = config.model_type();
  return type == kLiteType ||
         (absl::StartsWith(type, "longcat") && (config.Has(kLite.ratio) || config.Has(kTwo.ratio)));
}

std::string UnverifiedLongcat(const ModelConfig& config) {
  if (IsLite(config)) return "";
  if (&NamesOf(config) == &kTwo) {
    return "LongCat-2.0's addressing is not verified by any test vector (neither its config.json "
           "nor its weights have been seen)";
  }
  return absl::StrCat(
      "model_type '", absl::CHexEscape(absl::string_view(config.model_type()).substr(0, 100)),
      "' with these keys is not verified by any test vector; ", kLiteType, " with ", kLite.ratio,
      ", ", kLite.orders, " and ", kLite.splits, ", and no ", kTwoPrefix, "* key, is");
}

absl::StatusOr<TableSpec> LongcatSpec(const ModelConfig& config) {
  ENGRAM_RETURN_IF_ERROR(CheckKnownHash(config));
  const Names& names = NamesOf(config);
  TableSpec spec;
  spec.family = "longcat";
  ENGRAM_ASSIGN_OR_RETURN(spec.addressing, ReadAddressing(config, names));
  AddressingSpec& addressing = spec.addressing;
  ENGRAM_ASSIGN_OR_RETURN(const double ratio, config.Number(names.ratio, 0, kMaxLayerRows));
  ENGRAM_ASSIGN_OR_RETURN(const std::optional<uint64_t> said,
                          ReadDim(config, ColumnsOf(addressing)));
  const uint64_t dim = said.value_or(names.dim);
  auto columns =
      RatioColumns(ratio, addressing.vocab_size, addressing.max_ngram_size, addressing.heads);
  if (!columns.ok()) {
    return BadKey(config, names.ratio, absl::StrCat("is impossible: ", columns.status().message()));
  }
  addressing.base_size = columns->front().rows;
  spec.layers.push_back(LayerOfColumns(LayerId{0}, dim * kBf16Bytes, *std::move(columns)));
  spec.row_format = absl::StrCat("bf16[", dim, "]");
  ENGRAM_RETURN_IF_ERROR(FinishSpec(config, spec));
  return spec;
}

absl::StatusOr<LayerRows> OpenLongcat(const ModelConfig& config, const CheckpointOptions&,
                                      CheckpointDir& directory, TableSpec& spec) {
  const Names& names = NamesOf(config);
  LayerSpec& layer = spec.layers.front();
  ENGRAM_ASSIGN_OR_RETURN(const std::string name,
                          directory.Resolve(absl::StrCat(names.tables, "0.weight")));
  const std::string stem(absl::StripSuffix(name, "0.weight"));
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef first, directory.Find(name));
  ENGRAM_ASSIGN_OR_RETURN(layer.row_bytes, RowBytesOf(first));
  ENGRAM_RETURN_IF_ERROR(CheckFirst(config, first, layer.columns.size()));
  ENGRAM_RETURN_IF_ERROR(CheckNoMore(directory, stem, layer.columns.size()));
  spec.row_format = RowFormatOf(first);
  std::vector<RowShard> shards;
  for (size_t i = 0; i < layer.columns.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorRef table,
                            directory.Find(absl::StrCat(stem, i, ".weight")));
    ENGRAM_RETURN_IF_ERROR(CheckTable(table, first, names.padded, layer.columns[i]));
    shards.push_back({layer.columns[i].rows, {PartOf(table, layer.row_bytes)}});
  }
  LayerRows layers;
  layers[layer.id] = std::make_unique<const RowShards>(std::move(shards));
  return layers;
}

}  // namespace engram
