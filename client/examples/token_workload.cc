#include "client/examples/token_workload.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/types/span.h"

namespace engram {

LookupRequest StepBatch::Lookup(const TableDescription& table) {
  LookupRequest request;
  request.table = table.name;
  request.expect_table_digest = table.table_digest;
  for (Layer& layer : layers) {
    request.layers.push_back({.layer = layer.layer,
                              .row_ids = layer.ids,
                              .out = absl::MakeSpan(layer.rows),
                              .tiers = absl::MakeSpan(layer.tiers)});
  }
  return request;
}

PrefetchRequest StepBatch::Prefetch(const TableDescription& table) const {
  PrefetchRequest request;
  request.table = table.name;
  request.version = table.version;
  for (const Layer& layer : layers) {
    request.layers.push_back({.layer = layer.layer, .row_ids = layer.ids});
  }
  return request;
}

TokenWorkload::TokenWorkload(const TableDescription& table, uint64_t seed) : random_(seed) {
  for (const LayerInfo& info : table.layers) {
    std::vector<uint64_t> sizes;
    uint64_t left = info.rows;
    for (const ColumnInfo& column : info.columns) {
      sizes.push_back(column.rows);
      left -= column.rows;
    }
    // Rows that no column reaches (padding, or no columns at all) are rows like any other.
    if (left > 0) sizes.push_back(left);
    Layer layer{.layer = info.layer, .row_bytes = info.row_bytes, .columns = {}};
    uint32_t offset = 0;
    for (const uint64_t size : sizes) {
      std::vector<uint32_t> ids(size);
      std::iota(ids.begin(), ids.end(), offset);
      std::shuffle(ids.begin(), ids.end(), random_);
      offset += static_cast<uint32_t>(size);
      tokens_ = std::max(tokens_, ids.size());
      layer.columns.push_back(std::move(ids));
    }
    layers_.push_back(std::move(layer));
  }
}

StepBatch TokenWorkload::Make(const std::vector<size_t>& tokens) const {
  StepBatch batch;
  for (const Layer& layer : layers_) {
    StepBatch::Layer out{
        .layer = layer.layer, .row_bytes = layer.row_bytes, .ids = {}, .rows = {}, .tiers = {}};
    out.ids.reserve(tokens.size() * layer.columns.size());
    for (const size_t token : tokens) {
      for (const std::vector<uint32_t>& column : layer.columns) {
        out.ids.push_back(column[token % column.size()]);
      }
    }
    out.rows.resize(out.ids.size() * layer.row_bytes);
    out.tiers.resize(out.ids.size());
    batch.layers.push_back(std::move(out));
  }
  return batch;
}

StepBatch TokenWorkload::Cover(size_t first, size_t count) const {
  first = std::min(first, tokens_);
  std::vector<size_t> tokens(std::min(count, tokens_ - first));
  std::iota(tokens.begin(), tokens.end(), first);
  return Make(tokens);
}

StepBatch TokenWorkload::Hot(size_t count) {
  // n^u for uniform u falls between k and k + 1 with a probability that goes as 1 / k.
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  std::vector<size_t> tokens(count);
  for (size_t& token : tokens) {
    const double rank = std::pow(static_cast<double>(tokens_), uniform(random_));
    token = std::min(static_cast<size_t>(rank), tokens_) - 1;
  }
  return Make(tokens);
}

}  // namespace engram
