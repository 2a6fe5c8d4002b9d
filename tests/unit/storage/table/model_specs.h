// The released models' addressing, made of their published numbers by storage/table's own
// functions, as the family adapters do it.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_TABLE_MODEL_SPECS_H_
#define ENGRAM_TESTS_UNIT_STORAGE_TABLE_MODEL_SPECS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "storage/table/addressing.h"
#include "storage/table/spec.h"

namespace engram::testing {

struct Model {
  std::string name;
  AddressingSpec addressing;
  std::vector<LayerSpec> layers;
};

inline void SetRows(LayerSpec& layer) {
  layer.row_bytes = 8;
  layer.rows = 0;
  for (const ColumnSpec& column : layer.columns) layer.rows += column.rows;
}

// `base_size` and `heads` other than the model's give a smaller model of the same family.
inline Model DeepseekV41(uint64_t base_size = 16'000'000, int32_t heads = 8,
                         int32_t max_ngram_size = 4) {
  Model model{.name = "DeepSeek-V4.1-Flash", .addressing = {}, .layers = {}};
  AddressingSpec& a = model.addressing;
  a.hash = HashKind::kXorMultiply;
  a.max_ngram_size = max_ngram_size;
  a.heads = heads;
  a.base_size = base_size;
  a.pad_id = 2;
  a.compressed_vocab_size = 99092;
  const auto columns = PrimeColumns(a, 2).value();
  const std::vector<int> ids = {1, 14};
  for (size_t i = 0; i < ids.size(); ++i) {
    LayerSpec& layer = model.layers.emplace_back();
    layer.id = LayerId{ids[i]};
    layer.columns = columns[i];
    layer.multipliers =
        NumpyMultipliers(10007 * ids[i], a.compressed_vocab_size, max_ngram_size).value();
    SetRows(layer);
  }
  return model;
}

inline Model EngramDemo() {
  Model model{.name = "Engram demo", .addressing = {}, .layers = {}};
  AddressingSpec& a = model.addressing;
  a.hash = HashKind::kXorMultiply;
  a.max_ngram_size = 3;
  a.heads = 8;
  a.base_size = 646400;
  a.pad_id = 2;
  a.compressed_vocab_size = 98627;
  const auto columns = PrimeColumnsByOrder({646400, 646400}, 8, 2).value();
  const std::vector<int> ids = {1, 15};
  for (size_t i = 0; i < ids.size(); ++i) {
    LayerSpec& layer = model.layers.emplace_back();
    layer.id = LayerId{ids[i]};
    layer.columns = columns[i];
    layer.multipliers = NumpyMultipliers(10007 * ids[i], a.compressed_vocab_size, 3).value();
    SetRows(layer);
  }
  return model;
}

inline Model Qwen4Exp() {
  Model model{.name = "Qwen3.8-Flash-Next", .addressing = {}, .layers = {}};
  AddressingSpec& a = model.addressing;
  a.hash = HashKind::kXorMultiply;
  a.max_ngram_size = 3;
  a.heads = 8;
  a.base_size = 20'000'000;
  a.pad_id = 248044;
  a.vocab_size = 248320;
  a.boundary_id = 248044;
  LayerSpec& layer = model.layers.emplace_back();
  layer.id = LayerId{2};
  layer.columns = PrimeColumns(a, 1).value()[0];
  layer.multipliers = SplitMixMultipliers(1234, 0, a.vocab_size, 3).value();
  SetRows(layer);
  return model;
}

inline Model LongCat(std::string name, int64_t vocab_size, double ratio, int32_t max_ngram_size,
                     int32_t heads) {
  Model model{.name = std::move(name), .addressing = {}, .layers = {}};
  AddressingSpec& a = model.addressing;
  a.hash = HashKind::kPolynomial;
  a.max_ngram_size = max_ngram_size;
  a.heads = heads;
  a.vocab_size = vocab_size;
  a.boundary_id = 2;
  LayerSpec& layer = model.layers.emplace_back();
  layer.columns = RatioColumns(ratio, vocab_size, max_ngram_size, heads).value();
  a.base_size = layer.columns[0].rows;
  SetRows(layer);
  return model;
}

inline Model LongCatLite() { return LongCat("LongCat-Flash-Lite", 131072, 78, 4, 4); }
inline Model LongCat2() { return LongCat("LongCat-2.0", 163840, 100.567, 5, 4); }

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_UNIT_STORAGE_TABLE_MODEL_SPECS_H_
