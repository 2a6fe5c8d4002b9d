#include "client/local/shm_batch.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace engram {
namespace {

// What LayerRequest::tiers says.
constexpr uint8_t kDram = 1;
constexpr uint8_t kNone = 255;

// Positions of the sequences but for their lookback; the hasher checks that they fit.
size_t PositionsOf(const TokenBatch& tokens) {
  size_t positions = tokens.token_ids.size();
  for (const uint32_t lookback : tokens.lookbacks) {
    positions -= std::min<size_t>(lookback, positions);
  }
  return positions;
}

}  // namespace

bool IsRefusal(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
         absl::IsFailedPrecondition(status);
}

bool ShmBatch::Plan(const ShmTable& table, const LookupRequest& request, const RowHasher* hasher) {
  if (!request.expect_table_digest.empty() && request.expect_table_digest != table.table_digest) {
    return false;
  }
  if (request.layers.empty() || request.tokens.has_value() != (hasher != nullptr)) return false;
  layers_.resize(request.layers.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    layer.request = request.layers[i];
    layer.memory = table.Find(layer.request.layer);
    if (layer.memory == nullptr) return false;
    layer.row_bytes = layer.memory->row_bytes();
    layer.ids = layer.request.row_ids;
    if (hasher != nullptr) {
      const absl::StatusOr<size_t> columns = hasher->columns(layer.request.layer);
      if (!columns.ok() || !layer.ids.empty()) return false;
      layer.hashed.resize(PositionsOf(*request.tokens) * *columns);
      if (!hasher->Hash(layer.request.layer, *request.tokens, absl::MakeSpan(layer.hashed)).ok()) {
        return false;
      }
      layer.ids = layer.hashed;
    }
    if (layer.request.out.size() != layer.ids.size() * layer.row_bytes) return false;
    if (!layer.request.tiers.empty() && layer.request.tiers.size() != layer.ids.size()) {
      return false;
    }
  }
  const auto by_layer = [](const Layer& a, const Layer& b) {
    return a.request.layer < b.request.layer;
  };
  if (!std::is_sorted(layers_.begin(), layers_.end(), by_layer)) {
    std::sort(layers_.begin(), layers_.end(), by_layer);
  }
  return std::adjacent_find(layers_.begin(), layers_.end(), [](const Layer& a, const Layer& b) {
           return a.request.layer == b.request.layer;
         }) == layers_.end();
}

bool ShmBatch::Gather(const ShmTable& table, const LookupRequest& request, const RowHasher* hasher,
                      uint32_t phase) {
  if (!Plan(table, request, hasher)) return false;
  answer_.version = table.version;
  answer_.layers.resize(layers_.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    layer.positions.resize(layer.ids.size());
    const AttachedLayer::Result result =
        layer.memory->Gather(layer.ids, layer.request.out, absl::MakeSpan(layer.positions), phase);
    layer.positions.resize(result.missing);
    if (!layer.request.tiers.empty()) SetTiers(layer);
    hits_ += result.hits;
    missing_rows_ += result.missing;
    answer_.layers[i].layer = layer.request.layer;
    answer_.layers[i].row_bytes = layer.row_bytes;
    answer_.layers[i].dram_rows = result.hits;
  }
  if (!table.Holds()) return false;
  if (complete()) {
    layers_.front().memory->CountCall();
  } else {
    AskForRest(table, request);
  }
  // Whoever has the batch longer does not have the table longer.
  for (Layer& layer : layers_) layer.memory = nullptr;
  return true;
}

void ShmBatch::SetTiers(Layer& layer) {
  for (size_t i = 0; i < layer.ids.size(); ++i) {
    layer.request.tiers[i] = layer.ids[i] == kDeadPosition ? kNone : kDram;
  }
}

void ShmBatch::AskForRest(const ShmTable& table, const LookupRequest& request) {
  rest_.table = request.table;
  // The very rows that the others are from, whatever is active by now.
  rest_.version = table.version;
  rest_.expect_table_digest = table.table_digest;
  rest_.on_row_error = request.on_row_error;
  rest_.urgency = request.urgency;
  for (Layer& layer : layers_) {
    if (layer.positions.empty()) continue;
    layer.missing_ids.reserve(layer.positions.size());
    for (const uint32_t position : layer.positions)
      layer.missing_ids.push_back(layer.ids[position]);
    layer.rows.resize(layer.positions.size() * layer.row_bytes);
    if (!layer.request.tiers.empty()) layer.tiers.resize(layer.positions.size());
    rest_.layers.push_back({.layer = layer.request.layer,
                            .row_ids = layer.missing_ids,
                            .out = absl::MakeSpan(layer.rows),
                            .tiers = absl::MakeSpan(layer.tiers)});
  }
}

bool ShmBatch::Add(const LookupAnswer& answer) {
  size_t next = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layer_complete(i)) continue;
    if (next == answer.layers.size() || !AddLayer(i, answer.layers[next++])) return false;
  }
  return next == answer.layers.size() && answer.version == answer_.version;
}

bool ShmBatch::complete_behind(size_t index) const {
  return std::all_of(layers_.begin() + static_cast<std::ptrdiff_t>(index) + 1, layers_.end(),
                     [](const Layer& layer) { return layer.positions.empty(); });
}

bool ShmBatch::AddLayer(size_t index, const LayerAnswer& rest) {
  Layer& layer = layers_[index];
  if (rest.layer != layer.request.layer) return false;
  const size_t row_bytes = layer.row_bytes;
  for (size_t j = 0; j < layer.positions.size(); ++j) {
    std::memcpy(layer.request.out.data() + layer.positions[j] * row_bytes,
                layer.rows.data() + j * row_bytes, row_bytes);
    if (!layer.tiers.empty()) layer.request.tiers[layer.positions[j]] = layer.tiers[j];
  }
  LayerAnswer& all = answer_.layers[index];
  all.hbm_rows += rest.hbm_rows;
  all.dram_rows += rest.dram_rows;
  all.nvme_rows += rest.nvme_rows;
  for (const FailedRow& failed : rest.failures) {
    all.failures.push_back({layer.positions[failed.position], failed.status});
  }
  return true;
}

void ShmBatch::Replace(LookupAnswer answer) {
  answer_ = std::move(answer);
  for (Layer& layer : layers_) layer.positions.clear();
}

}  // namespace engram
