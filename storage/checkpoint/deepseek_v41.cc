#include "storage/checkpoint/deepseek_v41.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/checkpoint_dir.h"
#include "storage/checkpoint/row_parts.h"
#include "storage/table/addressing.h"

namespace engram {
namespace {

constexpr uint64_t kMax32 = std::numeric_limits<int32_t>::max();
constexpr uint64_t kMax64 = std::numeric_limits<int64_t>::max();
constexpr uint64_t kScaleBlock = 32;      // values that share a scale
constexpr uint64_t kMaxHeadDim = 32'768;  // with its scales still within kMaxRowBytes
// Each column costs a search for its prime; the released model has 48.
constexpr uint64_t kMaxColumns = 4096;

std::string Key(absl::string_view name) { return absl::StrCat("text_config.engram_", name); }

absl::Status Bad(const ModelConfig& config, absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(config.file(), ": ", Key(key), " ", what));
}

absl::StatusOr<AddressingSpec> ReadAddressing(const ModelConfig& config) {
  AddressingSpec spec;
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t orders, config.Unsigned(Key("max_ngram_size"), 2, 16));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t heads, config.Unsigned(Key("n_heads"), 1, 256));
  ENGRAM_ASSIGN_OR_RETURN(spec.base_size, config.Unsigned(Key("vocab_size"), 2, kMaxLayerRows));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t pad, config.Unsigned(Key("pad_token_id"), 0, kMax32));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t compressed,
                          config.Unsigned(Key("compressed_vocab_size"), 1, kMax64));
  spec.max_ngram_size = static_cast<int32_t>(orders);
  spec.heads = static_cast<int32_t>(heads);
  spec.pad_id = static_cast<int64_t>(pad);
  spec.compressed_vocab_size = static_cast<int64_t>(compressed);
  return spec;
}

absl::StatusOr<std::vector<uint64_t>> ReadLayerIds(const ModelConfig& config) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<uint64_t> ids,
                          config.UnsignedList(Key("layer_ids"), 0, kMax32));
  if (ids.empty() || ids.size() > kMaxLayers) {
    return Bad(config, "layer_ids",
               absl::StrCat("names ", ids.size(), " layers, not 1 to ", kMaxLayers));
  }
  std::set<uint64_t> seen;
  for (const uint64_t id : ids) {
    if (!seen.insert(id).second)
      return Bad(config, "layer_ids", absl::StrCat("names ", id, " twice"));
  }
  return ids;
}

absl::StatusOr<uint64_t> ReadHeadDim(const ModelConfig& config) {
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t head_dim,
                          config.Unsigned(Key("head_dim"), kScaleBlock, kMaxHeadDim));
  if (head_dim % kScaleBlock != 0) {
    return Bad(config, "head_dim",
               absl::StrCat("is ", head_dim, ", not a multiple of ", kScaleBlock));
  }
  return head_dim;
}

// The layers' sizes against the config's own numbers, both in the config's order.
absl::Status CheckRowCounts(const ModelConfig& config, const std::vector<LayerSpec>& layers) {
  if (!config.Has(Key("num_embeddings"))) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> rows,
                          config.UnsignedList(Key("num_embeddings"), 0, kMax64));
  if (rows.size() != layers.size()) {
    return Bad(config, "num_embeddings",
               absl::StrCat("has ", rows.size(), " entries for ", layers.size(), " layers"));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] != layers[i].rows) {
      return Bad(config, "num_embeddings",
                 absl::StrCat("says ", rows[i], " rows for layer ", Raw(layers[i].id),
                              ", but its columns add up to ", layers[i].rows));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const TensorRef& tensor, absl::string_view dtype, uint64_t rows,
                         uint64_t columns) {
  const std::vector<uint64_t> shape = {rows, columns};
  if (tensor.info->dtype == dtype && tensor.info->shape == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      tensor.shard->file->path(), ": tensor '", tensor.name, "' is ", tensor.info->dtype, " ",
      FormatShape(tensor.info->shape), "; the config asks for ", dtype, " ", FormatShape(shape)));
}

class DeepseekV41Source final : public RowSource {
 public:
  DeepseekV41Source(TableSpec spec, std::unique_ptr<CheckpointDir> directory,
                    std::map<LayerId, std::unique_ptr<RowParts>> layers)
      : spec_(std::move(spec)), directory_(std::move(directory)), layers_(std::move(layers)) {}

  const TableSpec& spec() const override { return spec_; }

  absl::Status ReadRows(LayerId layer, uint64_t first, uint64_t count,
                        absl::Span<std::byte> out) const override {
    const LayerSpec* const found = spec_.FindLayer(layer);
    if (found == nullptr) {
      return absl::NotFoundError(absl::StrCat("the checkpoint has no layer ", Raw(layer)));
    }
    if (count > found->rows || first > found->rows - count) {
      return absl::OutOfRangeError(absl::StrCat(count, " rows from row ", first,
                                                " are past the end of layer ", Raw(layer),
                                                ", which has ", found->rows));
    }
    if (out.size() != count * found->row_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("the output is ", out.size(), " bytes; ",
                                                     count, " rows take ",
                                                     count * found->row_bytes));
    }
    return layers_.at(layer)->Read(first, count, out);
  }

 private:
  const TableSpec spec_;
  const std::unique_ptr<CheckpointDir> directory_;  // owns the files that layers_ borrows
  const std::map<LayerId, std::unique_ptr<RowParts>> layers_;
};

absl::StatusOr<std::unique_ptr<RowParts>> OpenLayer(CheckpointDir& directory,
                                                    const LayerSpec& layer, uint64_t head_dim) {
  const std::string base = absl::StrCat("layers.", Raw(layer.id), ".engram.embed.");
  const uint64_t scales = head_dim / kScaleBlock;
  ENGRAM_ASSIGN_OR_RETURN(const std::string name, directory.Resolve(base + "weight"));
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef weight, directory.Find(name));
  // The scales of these values, not of some other module with the same ending.
  const std::string stem(absl::StripSuffix(name, "weight"));
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef scale, directory.Find(stem + "scale"));
  ENGRAM_RETURN_IF_ERROR(CheckTensor(weight, "F8_E4M3", layer.rows, head_dim));
  ENGRAM_RETURN_IF_ERROR(CheckTensor(scale, "F8_E8M0", layer.rows, scales));
  std::vector<RowPart> parts;
  parts.push_back(
      {weight.shard->file.get(), weight.info->begin, static_cast<uint32_t>(head_dim), weight.name});
  parts.push_back(
      {scale.shard->file.get(), scale.info->begin, static_cast<uint32_t>(scales), scale.name});
  return std::make_unique<RowParts>(std::move(parts));
}

}  // namespace

bool MatchesDeepseekV41(const ModelConfig& config) { return config.model_type() == "deepseek_v41"; }

absl::StatusOr<TableSpec> DeepseekV41Spec(const ModelConfig& config) {
  TableSpec spec;
  spec.family = "deepseek-v4.1";
  ENGRAM_ASSIGN_OR_RETURN(spec.addressing, ReadAddressing(config));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> ids, ReadLayerIds(config));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t head_dim, ReadHeadDim(config));
  const uint64_t columns =
      static_cast<uint64_t>(spec.addressing.max_ngram_size - 1) * spec.addressing.heads;
  if (ids.size() * columns > kMaxColumns) {
    return Bad(config, "layer_ids",
               absl::StrCat("with ", columns, " columns a layer asks for ", ids.size() * columns,
                            " columns; at most ", kMaxColumns, " are supported"));
  }
  ENGRAM_ASSIGN_OR_RETURN(auto sizes, PrimeColumns(spec.addressing, ids.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    LayerSpec layer;
    layer.id = LayerId{static_cast<int32_t>(ids[i])};
    layer.row_bytes = static_cast<uint32_t>(head_dim + head_dim / kScaleBlock);
    layer.columns = std::move(sizes[i]);
    for (const ColumnSpec& column : layer.columns) layer.rows += column.rows;
    spec.layers.push_back(std::move(layer));
  }
  ENGRAM_RETURN_IF_ERROR(CheckRowCounts(config, spec.layers));
  std::sort(spec.layers.begin(), spec.layers.end(),
            [](const LayerSpec& a, const LayerSpec& b) { return a.id < b.id; });
  spec.row_format = absl::StrCat("f8_e4m3[", head_dim, "] f8_e8m0[", head_dim / kScaleBlock, "]");
  if (const absl::Status status = CheckTableSpec(spec); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file(), ": describes an impossible table: ", status.message()));
  }
  return spec;
}

absl::StatusOr<std::unique_ptr<RowSource>> OpenDeepseekV41(const ModelConfig& config,
                                                           const CheckpointOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(TableSpec spec, DeepseekV41Spec(config));
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t head_dim, ReadHeadDim(config));
  ENGRAM_ASSIGN_OR_RETURN(auto directory, CheckpointDir::Open(options.directory));
  std::map<LayerId, std::unique_ptr<RowParts>> layers;
  for (const LayerSpec& layer : spec.layers) {
    ENGRAM_ASSIGN_OR_RETURN(layers[layer.id], OpenLayer(*directory, layer, head_dim));
  }
  for (const auto& [name, shard] : directory->shards()) {
    if (shard->file->direct()) continue;
    ENGRAM_LOG(kWarning) << shard->file->path()
                         << ": direct I/O is refused; reading through the page cache";
  }
  spec.checkpoint_digest = CheckpointDigest(config, *directory);
  return std::make_unique<DeepseekV41Source>(std::move(spec), std::move(directory),
                                             std::move(layers));
}

}  // namespace engram
