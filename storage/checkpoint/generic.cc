#include "storage/checkpoint/generic.h"

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/layer_tensors.h"

namespace engram {
namespace {

absl::Status CheckNames(const std::vector<std::string>& tensors) {
  if (tensors.empty() || tensors.size() > kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor names ", tensors.size(), " tensors, not 1 to ", kMaxLayers));
  }
  std::set<std::string> seen;
  for (const std::string& tensor : tensors) {
    if (seen.insert(tensor).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor names '", absl::CHexEscape(tensor), "' twice"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LayerRows> OpenGeneric(const ModelConfig&, const CheckpointOptions& options,
                                      CheckpointDir& directory, TableSpec& spec) {
  ENGRAM_RETURN_IF_ERROR(CheckNames(options.tensors));
  spec.family = "generic";
  std::vector<std::string> formats;
  std::set<std::string> distinct;
  LayerRows layers;
  for (const std::string& name : options.tensors) {
    ENGRAM_ASSIGN_OR_RETURN(const TensorRef tensor, directory.Find(name));
    LayerSpec layer;
    layer.id = LayerId{static_cast<int32_t>(spec.layers.size())};
    ENGRAM_ASSIGN_OR_RETURN(layer.row_bytes, RowBytesOf(tensor));
    layer.rows = tensor.info->shape[0];
    if (layer.rows == 0 || layer.rows > kMaxLayerRows) {
      return BadTensor(tensor, absl::StrCat("has ", layer.rows, " rows, not 1 to ", kMaxLayerRows));
    }
    formats.push_back(RowFormatOf(tensor));
    distinct.insert(formats.back());
    std::vector<RowShard> shards = {{layer.rows, {PartOf(tensor, layer.row_bytes)}}};
    layers[layer.id] = std::make_unique<const RowShards>(std::move(shards));
    spec.layers.push_back(std::move(layer));
  }
  spec.row_format = distinct.size() == 1 ? formats[0] : absl::StrJoin(formats, ", ");
  return layers;
}

}  // namespace engram
