// Profiles of a table, from planted counts.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_PROFILE_PROFILE_TESTING_H_
#define ENGRAM_TESTS_UNIT_STORAGE_PROFILE_PROFILE_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>

#include "storage/profile/row_profile.h"
#include "storage/table/spec.h"

namespace engram {

// The same counts, by row, in every layer; rows without one were not asked for.
using PlantedCounts = std::map<uint32_t, uint32_t>;

inline RowProfile ProfileOf(const TableSpec& spec, const PlantedCounts& counts) {
  RowProfile profile;
  profile.family = spec.family;
  profile.fingerprint = AddressingFingerprint(spec);
  profile.token_map_digest = spec.token_map_digest;
  profile.sequences = 1;
  for (const LayerSpec& spec_layer : spec.layers) {
    LayerProfile& layer = profile.layers.emplace_back();
    layer.id = spec_layer.id;
    layer.rows = spec_layer.rows;
    std::map<int32_t, std::map<uint64_t, uint64_t, std::greater<>>> rows_of;
    uint64_t first = 0;
    for (const ColumnSpec& column : spec_layer.columns) {
      layer.columns.push_back({column.order, column.rows});
      rows_of[column.order];
      for (auto row = counts.lower_bound(static_cast<uint32_t>(first));
           row != counts.end() && row->first < first + column.rows; ++row) {
        ++rows_of[column.order][row->second];
        layer.head.push_back({RowId{row->first}, row->second});
      }
      first += column.rows;
    }
    for (const auto& [order, classes] : rows_of) {
      OrderProfile& of = layer.orders.emplace_back();
      of.order = order;
      for (const auto& [count, rows] : classes) of.classes.push_back({count, rows});
    }
    std::stable_sort(layer.head.begin(), layer.head.end(),
                     [](const HotRow& a, const HotRow& b) { return a.count > b.count; });
  }
  return profile;
}

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_STORAGE_PROFILE_PROFILE_TESTING_H_
