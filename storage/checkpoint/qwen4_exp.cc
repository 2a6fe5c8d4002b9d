#include "storage/checkpoint/qwen4_exp.h"

#include <cstdint>
#include <limits>
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

constexpr absl::string_view kType = "qwen4_exp";
constexpr absl::string_view kTextType = "qwen4_exp_text";
constexpr uint64_t kDefaultSeed = 1234;
constexpr uint64_t kMaxDim = kMaxRowBytes / 2;
constexpr uint64_t kBf16Bytes = 2;
constexpr uint64_t kMaxParts = 4096;

// The key as this config has it. If it has it nowhere: where a whole model's config would.
std::string Key(const ModelConfig& config, absl::string_view name) {
  std::string nested = absl::StrCat("text_config.", name);
  const bool top = config.Has(name) || !config.Has("text_config");
  return !config.Has(nested) && top ? std::string(name) : nested;
}

absl::StatusOr<uint64_t> Unsigned(const ModelConfig& config, absl::string_view name, uint64_t low,
                                  uint64_t high) {
  return config.Unsigned(Key(config, name), low, high);
}

absl::StatusOr<AddressingSpec> ReadAddressing(const ModelConfig& config) {
  AddressingSpec spec;
  spec.hash = HashKind::kXorMultiply;
  ENGRAM_RETURN_IF_ERROR(
      ReadOrders(config, Key(config, "ngram_size"), Key(config, "heads_per_ngram"), spec));
  ENGRAM_ASSIGN_OR_RETURN(spec.base_size,
                          Unsigned(config, "ngram_vocab_size_base", 2, kMaxLayerRows));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t vocab, Unsigned(config, "vocab_size", 1, kMaxVocabulary));
  const std::string eos_key = Key(config, "eos_token_id");
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> eos,
                          config.UnsignedOrList(eos_key, 0, vocab - 1));
  if (eos.empty()) return BadKey(config, eos_key, "is an empty list; its first is the boundary");
  spec.vocab_size = static_cast<int64_t>(vocab);
  spec.boundary_id = static_cast<int64_t>(eos[0]);
  spec.pad_id = spec.boundary_id;
  return spec;
}

absl::StatusOr<uint64_t> ReadDim(const ModelConfig& config, uint64_t columns) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t dims,
                          Unsigned(config, "ple_embed_dim", 1, kMaxDim * kMaxColumns));
  if (dims % columns != 0 || dims / columns > kMaxDim) {
    return BadKey(config, Key(config, "ple_embed_dim"),
                  absl::StrCat("is ", dims, ", which ", columns,
                               " columns do not share out into rows of 1 to ", kMaxDim, " values"));
  }
  return dims / columns;
}

struct Padding {
  uint64_t divisor = 0;  // the padded rows are a multiple of it
  uint64_t parts = 0;    // shards
};

absl::StatusOr<Padding> ReadPadding(const ModelConfig& config) {
  Padding padding;
  ENGRAM_ASSIGN_OR_RETURN(padding.divisor,
                          Unsigned(config, "make_ngram_vocab_size_divisible_by", 1, kMaxLayerRows));
  ENGRAM_ASSIGN_OR_RETURN(padding.parts, Unsigned(config, "split_ngram_parts", 1, kMaxParts));
  return padding;
}

absl::StatusOr<uint64_t> PaddedRows(const ModelConfig& config, const Padding& padding,
                                    uint64_t rows) {
  const uint64_t padded = (rows + padding.divisor - 1) / padding.divisor * padding.divisor;
  if (padded % padding.parts == 0) return padded;
  return BadKey(
      config, Key(config, "split_ngram_parts"),
      absl::StrCat("is ", padding.parts, ", which does not divide ", padded,
                   " rows (make_ngram_vocab_size_divisible_by is ", padding.divisor, ")"));
}

// What the checkpoint itself says of the hash.
absl::Status CheckAddressing(CheckpointDir& directory, const std::string& stem,
                             const LayerSpec& layer) {
  std::vector<int64_t> sizes;
  for (const ColumnSpec& column : layer.columns) {
    sizes.push_back(static_cast<int64_t>(column.rows));
  }
  ENGRAM_RETURN_IF_ERROR(CheckStored(directory, stem + "layer_multipliers", layer.multipliers));
  ENGRAM_RETURN_IF_ERROR(CheckStored(directory, stem + "ngram_heads_vocab_sizes", sizes));
  return CheckStored(directory, stem + "ngram_heads_offsets", OffsetsOf(layer.columns));
}

absl::Status SetScale(CheckpointDir& directory, const std::string& name, const TensorRef& first,
                      LayerSpec& layer) {
  const bool has = directory.weights().count(name) != 0;
  const bool wanted = first.info->dtype == "F8_E4M3";
  if (!has && !wanted) return absl::OkStatus();
  if (!has) {
    return BadTensor(first, absl::StrCat("is F8_E4M3, and there is no tensor '", name,
                                         "' to scale its values with"));
  }
  if (!wanted) {
    return BadTensor(first, absl::StrCat("is BF16, which needs no scale, but there is '", name,
                                         "'; whether it applies cannot be told"));
  }
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef scale, directory.Find(name));
  ENGRAM_ASSIGN_OR_RETURN(layer.row_scale, ReadScale(scale));
  return absl::OkStatus();
}

// Sets the layer's row size and scale. `format` is what earlier layers' rows are; empty in the
// first.
absl::StatusOr<std::unique_ptr<const RowShards>> OpenLayer(CheckpointDir& directory, uint64_t parts,
                                                           uint64_t dim, std::string& format,
                                                           LayerSpec& layer) {
  const std::string module =
      absl::StrCat("layers.", Raw(layer.id) - 1, ".ple.ple_embedding.ngram_embedding.");
  ENGRAM_ASSIGN_OR_RETURN(const std::string name, directory.Resolve(module + "shard_0.weight"));
  const std::string stem(absl::StripSuffix(name, "shard_0.weight"));
  const std::vector<uint64_t> shape = {layer.rows / parts, dim};
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef first, directory.Find(name));
  ENGRAM_RETURN_IF_ERROR(CheckTensor(first, {"BF16", "F8_E4M3"}, shape));
  ENGRAM_ASSIGN_OR_RETURN(layer.row_bytes, RowBytesOf(first));
  if (format.empty()) format = RowFormatOf(first);
  if (format != RowFormatOf(first)) {
    return BadTensor(first, absl::StrCat("has rows of ", RowFormatOf(first),
                                         ", but those of an earlier layer are ", format));
  }
  std::vector<RowShard> shards;
  for (uint64_t part = 0; part < parts; ++part) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorRef shard,
                            directory.Find(absl::StrCat(stem, "shard_", part, ".weight")));
    ENGRAM_RETURN_IF_ERROR(CheckTensor(shard, {first.info->dtype}, shape));
    shards.push_back({shape[0], {PartOf(shard, layer.row_bytes)}});
  }
  ENGRAM_RETURN_IF_ERROR(CheckNoMore(directory, stem + "shard_", parts));
  ENGRAM_RETURN_IF_ERROR(SetScale(directory, stem + "weight_scale", first, layer));
  const std::string embedding(absl::StripSuffix(stem, "ngram_embedding."));
  ENGRAM_RETURN_IF_ERROR(CheckAddressing(directory, embedding, layer));
  return std::make_unique<const RowShards>(std::move(shards));
}

}  // namespace

bool MatchesQwen4Exp(const ModelConfig& config) {
  return absl::StartsWith(config.model_type(), kType) ||
         absl::StartsWith(config.Text("text_config.model_type"), kType);
}

std::string UnverifiedQwen4Exp(const ModelConfig& config) {
  // The text model's own type, where there is one, because its keys are the ones that are read.
  const bool nested = config.Has("text_config.model_type");
  const std::string type = nested ? config.Text("text_config.model_type") : config.model_type();
  if (type == kType || (nested && type == kTextType)) return "";
  return absl::StrCat(nested ? "text_config." : "", "model_type '",
                      absl::CHexEscape(absl::string_view(type).substr(0, 100)),
                      "' is not verified by any test vector; those of qwen4_exp are");
}

absl::StatusOr<TableSpec> Qwen4ExpSpec(const ModelConfig& config) {
  TableSpec spec;
  spec.family = "qwen4-exp";
  ENGRAM_ASSIGN_OR_RETURN(spec.addressing, ReadAddressing(config));
  const AddressingSpec& addressing = spec.addressing;
  const std::string layers_key = Key(config, "ple_layer_ids");
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<LayerId> ids, ReadLayerIds(config, layers_key, 1));
  ENGRAM_RETURN_IF_ERROR(CheckColumns(config, layers_key, ids.size(), addressing));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t dim, ReadDim(config, ColumnsOf(addressing)));
  ENGRAM_ASSIGN_OR_RETURN(const Padding padding, ReadPadding(config));
  uint64_t seed = kDefaultSeed;
  if (const std::string key = Key(config, "seed"); config.Has(key)) {
    ENGRAM_ASSIGN_OR_RETURN(seed, config.Unsigned(key, 0, std::numeric_limits<uint64_t>::max()));
  }
  auto columns = PrimeColumns(addressing, ids.size());
  ENGRAM_RETURN_IF_ERROR(InConfig(config, columns.status()));
  for (size_t i = 0; i < ids.size(); ++i) {
    LayerSpec layer = LayerOfColumns(ids[i], dim * kBf16Bytes, std::move((*columns)[i]));
    ENGRAM_ASSIGN_OR_RETURN(layer.rows, PaddedRows(config, padding, layer.rows));
    ENGRAM_ASSIGN_OR_RETURN(layer.multipliers, SplitMixMultipliers(seed, i, addressing.vocab_size,
                                                                   addressing.max_ngram_size));
    spec.layers.push_back(std::move(layer));
  }
  spec.row_format = absl::StrCat("bf16[", dim, "]");
  ENGRAM_RETURN_IF_ERROR(FinishSpec(config, spec));
  return spec;
}

absl::StatusOr<LayerRows> OpenQwen4Exp(const ModelConfig& config, const CheckpointOptions&,
                                       CheckpointDir& directory, TableSpec& spec) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t dim, ReadDim(config, ColumnsOf(spec.addressing)));
  ENGRAM_ASSIGN_OR_RETURN(const Padding padding, ReadPadding(config));
  std::string format;
  LayerRows layers;
  for (LayerSpec& layer : spec.layers) {
    ENGRAM_ASSIGN_OR_RETURN(layers[layer.id],
                            OpenLayer(directory, padding.parts, dim, format, layer));
  }
  spec.row_format = format;
  return layers;
}

}  // namespace engram
