#include "storage/checkpoint/deepseek_v41.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/family_config.h"
#include "storage/checkpoint/layer_tensors.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

constexpr uint64_t kScaleBlock = 32;      // values that share a scale
constexpr uint64_t kMaxHeadDim = 32'768;  // with its scales still within kMaxRowBytes

std::string Key(absl::string_view name) { return absl::StrCat("text_config.engram_", name); }

absl::StatusOr<AddressingSpec> ReadAddressing(const ModelConfig& config) {
  AddressingSpec spec;
  spec.hash = HashKind::kXorMultiply;
  ENGRAM_RETURN_IF_ERROR(ReadOrders(config, Key("max_ngram_size"), Key("n_heads"), spec));
  ENGRAM_ASSIGN_OR_RETURN(spec.base_size, config.Unsigned(Key("vocab_size"), 2, kMaxLayerRows));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t pad,
                          config.Unsigned(Key("pad_token_id"), 0, kMaxVocabulary - 1));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t compressed,
                          config.Unsigned(Key("compressed_vocab_size"), 1, kMaxVocabulary));
  spec.pad_id = static_cast<int64_t>(pad);
  spec.compressed_vocab_size = static_cast<int64_t>(compressed);
  return spec;
}

absl::StatusOr<uint64_t> ReadHeadDim(const ModelConfig& config) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t head_dim,
                          config.Unsigned(Key("head_dim"), kScaleBlock, kMaxHeadDim));
  if (head_dim % kScaleBlock != 0) {
    return BadKey(config, Key("head_dim"),
                  absl::StrCat("is ", head_dim, ", not a multiple of ", kScaleBlock));
  }
  return head_dim;
}

// The layers' sizes against the config's own numbers, both in the config's order.
absl::Status CheckRowCounts(const ModelConfig& config, const std::vector<LayerSpec>& layers) {
  const std::string key = Key("num_embeddings");
  if (!config.Has(key)) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> rows,
                          config.UnsignedList(key, 0, std::numeric_limits<int64_t>::max()));
  if (rows.size() != layers.size()) {
    return BadKey(config, key,
                  absl::StrCat("has ", rows.size(), " entries for ", layers.size(), " layers"));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] == layers[i].rows) continue;
    return BadKey(config, key,
                  absl::StrCat("says ", rows[i], " rows for layer ", Raw(layers[i].id),
                               ", but its columns add up to ", layers[i].rows));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const RowShards>> OpenLayer(CheckpointDir& directory,
                                                           const LayerSpec& layer,
                                                           uint32_t head_dim) {
  const std::string base = absl::StrCat("layers.", Raw(layer.id), ".engram.embed.");
  const uint32_t scales = head_dim / kScaleBlock;
  ENGRAM_ASSIGN_OR_RETURN(const std::string name, directory.Resolve(base + "weight"));
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef weight, directory.Find(name));
  // The scales of these values, not of some other module with the same ending.
  const std::string stem(absl::StripSuffix(name, "weight"));
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef scale, directory.Find(stem + "scale"));
  ENGRAM_RETURN_IF_ERROR(CheckTensor(weight, {"F8_E4M3"}, {layer.rows, head_dim}));
  ENGRAM_RETURN_IF_ERROR(CheckTensor(scale, {"F8_E8M0"}, {layer.rows, scales}));
  std::vector<RowShard> shards = {{layer.rows, {PartOf(weight, head_dim), PartOf(scale, scales)}}};
  return std::make_unique<const RowShards>(std::move(shards));
}

}  // namespace

bool MatchesDeepseekV41(const ModelConfig& config) { return config.model_type() == "deepseek_v41"; }

absl::StatusOr<TableSpec> DeepseekV41Spec(const ModelConfig& config) {
  TableSpec spec;
  spec.family = "deepseek-v4.1";
  ENGRAM_ASSIGN_OR_RETURN(spec.addressing, ReadAddressing(config));
  const AddressingSpec& addressing = spec.addressing;
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<LayerId> ids,
                          ReadLayerIds(config, Key("layer_ids"), 0));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t head_dim, ReadHeadDim(config));
  ENGRAM_RETURN_IF_ERROR(CheckColumns(config, Key("layer_ids"), ids.size(), addressing));
  auto columns = PrimeColumns(addressing, ids.size());
  ENGRAM_RETURN_IF_ERROR(InConfig(config, columns.status()));
  for (size_t i = 0; i < ids.size(); ++i) {
    spec.layers.push_back(
        LayerOfColumns(ids[i], head_dim + head_dim / kScaleBlock, std::move((*columns)[i])));
    ENGRAM_ASSIGN_OR_RETURN(
        spec.layers.back().multipliers,
        NumpyMultipliers(kLayerSeedStep * Raw(ids[i]), addressing.compressed_vocab_size,
                         addressing.max_ngram_size));
  }
  ENGRAM_RETURN_IF_ERROR(CheckRowCounts(config, spec.layers));
  spec.row_format = absl::StrCat("f8_e4m3[", head_dim, "] f8_e8m0[", head_dim / kScaleBlock, "]");
  ENGRAM_RETURN_IF_ERROR(FinishSpec(config, spec));
  return spec;
}

absl::StatusOr<LayerRows> OpenDeepseekV41(const ModelConfig& config, const CheckpointOptions&,
                                          CheckpointDir& directory, TableSpec& spec) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t head_dim, ReadHeadDim(config));
  LayerRows layers;
  for (const LayerSpec& layer : spec.layers) {
    ENGRAM_ASSIGN_OR_RETURN(layers[layer.id],
                            OpenLayer(directory, layer, static_cast<uint32_t>(head_dim)));
  }
  return layers;
}

}  // namespace engram
