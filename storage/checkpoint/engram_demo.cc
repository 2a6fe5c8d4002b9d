#include "storage/checkpoint/engram_demo.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/family_config.h"
#include "storage/checkpoint/layer_tensors.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

constexpr uint64_t kMaxDim = kMaxRowBytes / 2;
constexpr uint64_t kBf16Bytes = 2;
constexpr absl::string_view kWeight = "multi_head_embedding.embedding.weight";

absl::StatusOr<AddressingSpec> ReadAddressing(const ModelConfig& config,
                                              const std::vector<uint64_t>& sizes) {
  AddressingSpec spec;
  spec.hash = HashKind::kXorMultiply;
  ENGRAM_RETURN_IF_ERROR(ReadOrders(config, "max_ngram_size", "n_head_per_ngram", spec));
  if (sizes.size() != static_cast<size_t>(spec.max_ngram_size - 1)) {
    return BadKey(config, "engram_vocab_size",
                  absl::StrCat("has ", sizes.size(), " entries for the ", spec.max_ngram_size - 1,
                               " orders up to max_ngram_size"));
  }
  spec.base_size = *std::min_element(sizes.begin(), sizes.end());
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t pad, config.Unsigned("pad_id", 0, kMaxVocabulary - 1));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t compressed,
                          config.Unsigned("compressed_vocab_size", 1, kMaxVocabulary));
  spec.pad_id = static_cast<int64_t>(pad);
  spec.compressed_vocab_size = static_cast<int64_t>(compressed);
  return spec;
}

absl::StatusOr<uint64_t> ReadDim(const ModelConfig& config, uint64_t heads) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t dims,
                          config.Unsigned("n_embed_per_ngram", 1, kMaxDim * kMaxHeads));
  if (dims % heads != 0 || dims / heads > kMaxDim) {
    return BadKey(config, "n_embed_per_ngram",
                  absl::StrCat("is ", dims, ", which ", heads,
                               " heads (n_head_per_ngram) do not share out into rows of 1 to ",
                               kMaxDim, " values"));
  }
  return dims / heads;
}

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

// Whether a module at this path belongs to `layer`, or to any layer if that is empty.
bool IsUnderLayer(absl::string_view name, absl::string_view layer) {
  const std::vector<absl::string_view> path = absl::StrSplit(name, '.');
  for (size_t i = 1; i < path.size(); ++i) {
    if (path[i - 1] == "layers" && (layer.empty() ? IsNumber(path[i]) : path[i] == layer)) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<std::string> FindWeight(const CheckpointDir& directory, LayerId id, bool only) {
  const std::string layer = absl::StrCat(Raw(id));
  std::vector<std::string> found;
  std::vector<std::string> bare;
  for (const auto& [name, shard] : directory.weights()) {
    if (name != kWeight && !absl::EndsWith(name, absl::StrCat(".", kWeight))) continue;
    if (IsUnderLayer(name, layer)) {
      found.push_back(name);
    } else if (only && !IsUnderLayer(name, "")) {
      bare.push_back(name);
    }
  }
  if (found.empty()) found = std::move(bare);
  if (found.size() == 1) return found[0];
  const std::string wanted = absl::StrCat("layers.", layer, ".….", kWeight);
  if (found.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory.source(), ": there is no tensor whose name ends in '", wanted, "'",
        only ? absl::StrCat(", nor '", kWeight, "' for this only layer") : std::string()));
  }
  if (found.size() > 4) found.resize(4);
  return absl::InvalidArgumentError(absl::StrCat(directory.source(), ": tensor '", wanted,
                                                 "' could be any of '",
                                                 absl::StrJoin(found, "', '"), "'"));
}

}  // namespace

bool MatchesEngramDemo(const ModelConfig& config) { return config.model_type() == "engram_demo"; }

absl::StatusOr<TableSpec> EngramDemoSpec(const ModelConfig& config) {
  TableSpec spec;
  spec.family = "engram-demo";
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> sizes,
                          config.UnsignedList("engram_vocab_size", 2, kMaxLayerRows));
  ENGRAM_ASSIGN_OR_RETURN(spec.addressing, ReadAddressing(config, sizes));
  const AddressingSpec& addressing = spec.addressing;
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t dim, ReadDim(config, addressing.heads));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t seed,
                          config.Unsigned("seed", 0, std::numeric_limits<int64_t>::max()));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<LayerId> ids, ReadLayerIds(config, "layer_ids", 0));
  ENGRAM_RETURN_IF_ERROR(CheckColumns(config, "layer_ids", ids.size(), addressing));
  auto columns = PrimeColumnsByOrder(sizes, addressing.heads, ids.size());
  ENGRAM_RETURN_IF_ERROR(InConfig(config, columns.status()));
  for (size_t i = 0; i < ids.size(); ++i) {
    spec.layers.push_back(LayerOfColumns(ids[i], dim * kBf16Bytes, std::move((*columns)[i])));
    ENGRAM_ASSIGN_OR_RETURN(
        spec.layers.back().multipliers,
        NumpyMultipliers(seed + kLayerSeedStep * Raw(ids[i]), addressing.compressed_vocab_size,
                         addressing.max_ngram_size));
  }
  spec.row_format = absl::StrCat("bf16[", dim, "]");
  // A raw pad may be past the compressed ids; whether the pad is one of them is checked when it is
  // known whether there is a token map.
  const int64_t pad = std::exchange(spec.addressing.pad_id, 0);
  ENGRAM_RETURN_IF_ERROR(FinishSpec(config, spec));
  spec.addressing.pad_id = pad;
  return spec;
}

absl::StatusOr<LayerRows> OpenEngramDemo(const ModelConfig& config, const CheckpointOptions&,
                                         CheckpointDir& directory, TableSpec& spec) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t dim, ReadDim(config, spec.addressing.heads));
  std::string dtype;
  LayerRows layers;
  for (LayerSpec& layer : spec.layers) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string name,
                            FindWeight(directory, layer.id, spec.layers.size() == 1));
    ENGRAM_ASSIGN_OR_RETURN(const TensorRef weight, directory.Find(name));
    if (dtype.empty()) {
      ENGRAM_RETURN_IF_ERROR(CheckTensor(weight, {"BF16", "F16", "F32"}, {layer.rows, dim}));
      dtype = weight.info->dtype;
      spec.row_format = RowFormatOf(weight);
    }
    // One row_format says what all layers' rows are.
    ENGRAM_RETURN_IF_ERROR(CheckTensor(weight, {dtype}, {layer.rows, dim}));
    ENGRAM_ASSIGN_OR_RETURN(layer.row_bytes, RowBytesOf(weight));
    const std::string stem(absl::StripSuffix(name, "embedding.weight"));
    ENGRAM_RETURN_IF_ERROR(CheckStored(directory, stem + "offsets", OffsetsOf(layer.columns)));
    std::vector<RowShard> shards = {{layer.rows, {PartOf(weight, layer.row_bytes)}}};
    layers[layer.id] = std::make_unique<const RowShards>(std::move(shards));
  }
  return layers;
}

}  // namespace engram
