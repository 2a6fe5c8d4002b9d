// Profiles of a table, from planted counts; small ones, and the bytes of HOT files, good and
// forged.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_PROFILE_PROFILE_TESTING_H_
#define ENGRAM_TESTS_UNIT_STORAGE_PROFILE_PROFILE_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/profile/hot_reader.h"
#include "storage/profile/hot_writer.h"
#include "storage/profile/row_profile.h"
#include "storage/table/digest.h"
#include "storage/table/spec.h"

namespace engram {

// Where the layers of a file begin: behind a header with the family "deepseek-v4.1" and no table.
inline constexpr size_t kLayersAt = 132 + 4 + 13 + 4 + 32;

inline std::string Bytes(const RowProfile& profile) {
  auto bytes = profile.Serialize();
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or("");
}

inline void ExpectStatus(const absl::Status& status, absl::StatusCode code,
                         const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(text));
}

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

// Two layers: the first with a head that is cut short, the second with a head of all.
inline RowProfile ExampleProfile() {
  RowProfile profile;
  profile.family = "deepseek-v4.1";
  profile.fingerprint = std::string(32, 'a');
  profile.token_map_digest = std::string(64, 'b');
  profile.tokens = 12;
  profile.sequences = 2;
  LayerProfile first;
  first.id = LayerId{1};
  first.rows = 30;
  first.columns = {{2, 10}, {2, 5}, {3, 15}};
  first.orders = {{2, {{7, 1}, {2, 2}, {1, 3}}}, {3, {{2, 1}, {1, 9}}}};
  first.head = {{RowId{14}, 7}, {RowId{3}, 2}, {RowId{9}, 2}, {RowId{20}, 2}, {RowId{0}, 1}};
  LayerProfile second;
  second.id = LayerId{14};
  second.rows = 4;
  second.columns = {{2, 3}};
  second.orders = {{2, {{kMaxRowCount, 1}, {1, 1}}}};
  second.head = {{RowId{2}, static_cast<uint32_t>(kMaxRowCount)}, {RowId{0}, 1}};
  profile.layers = {first, second};
  return profile;
}

// One layer, for tests that damage every byte.
inline RowProfile SmallProfile() {
  RowProfile profile = ExampleProfile();
  profile.layers.pop_back();
  return profile;
}

// The second layer's head fills seven blocks and a part of an eighth; its classes end within
// blocks.
inline RowProfile LargeProfile() {
  RowProfile profile = ExampleProfile();
  LayerProfile& layer = profile.layers[1];
  layer.rows = 1000000;
  layer.columns = {{2, 999999}};
  layer.orders = {{2, {{kMaxRowCount, 1}, {9, 100000}, {1, 600000}}}};
  layer.head = {{RowId{999999}, static_cast<uint32_t>(kMaxRowCount)}};
  for (uint32_t i = 0; i < 100000; ++i) layer.head.push_back({RowId{i * 2}, 9});
  for (uint32_t i = 0; i < 400000; ++i) layer.head.push_back({RowId{i * 2 + 1}, 1});
  return profile;
}

// A file's digests as FORMAT.md says, written anew: what is tested then is all that stands between
// them. Ends where the bytes have no such form.
class HotSealer {
 public:
  static std::string Seal(std::string bytes) {
    HotSealer sealer(std::move(bytes));
    (void)sealer.SealFile();
    return std::move(sealer.bytes_);
  }

 private:
  explicit HotSealer(std::string bytes) : bytes_(std::move(bytes)) {}

  bool Skip(uint64_t bytes) {
    if (bytes > bytes_.size() - at_) return false;
    at_ += bytes;
    return true;
  }
  template <typename T>
  bool Take(T& value) {
    if (!Skip(sizeof value)) return false;
    std::memcpy(&value, bytes_.data() + at_ - sizeof value, sizeof value);
    return true;
  }
  bool SkipText() {
    uint32_t length = 0;
    return Take(length) && Skip(length);
  }
  bool PutDigest(const std::string& of) {
    if (!Skip(32)) return false;
    Digest digest;
    digest.Update(of);
    last_ = digest.Hex();
    bytes_.replace(at_ - 32, 32, last_);
    begin_ = at_;
    return true;
  }
  // What was gone through since the digest before.
  bool SealPart(const std::string& before) {
    return PutDigest(before + bytes_.substr(begin_, at_ - begin_));
  }
  bool SealFile() {
    uint32_t layers = 0;
    if (!Skip(16) || !Take(layers) || !Skip(8 + 8 + 32 + 64)) return false;
    if (!SkipText() || !SkipText() || !SealPart("")) return false;
    const std::string header = last_;
    std::string ends = header;
    for (uint32_t i = 0; i < layers; ++i) {
      if (!SealOutline(header) || !SealRows()) return false;
      ends += last_;
    }
    return PutDigest(ends);
  }
  bool SealOutline(const std::string& header) {
    uint32_t columns = 0;
    if (!Skip(4) || !Take(columns) || !Skip(8)) return false;
    std::set<int32_t> orders;
    for (uint32_t i = 0; i < columns; ++i) {
      int32_t order = 0;
      if (!Take(order) || !Skip(8)) return false;
      orders.insert(order);
    }
    for (size_t i = 0; i < orders.size(); ++i) {
      uint32_t classes = 0;
      if (!Take(classes) || !Skip(uint64_t{16} * classes)) return false;
    }
    return SealPart(header);
  }
  bool SealRows() {
    uint32_t runs = 1;
    while (runs > 0) {
      uint64_t rows = 0;
      if (!Take(runs)) return false;
      for (uint32_t i = 0; i < runs; ++i) {
        uint32_t of_run = 0;
        if (!Skip(4) || !Take(of_run)) return false;
        rows += of_run;
      }
      if (!Skip(4 * rows) || !SealPart(last_)) return false;
    }
    return true;
  }

  std::string bytes_;
  size_t at_ = 0;
  size_t begin_ = 0;  // of the part under way
  std::string last_;  // digest
};

// A number as it lies in the file.
inline std::string Number(uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// The bytes, front to back; `most_asked` becomes the most that was asked for at once.
inline HotReader::Source SourceOf(const std::string& bytes, size_t* most_asked = nullptr) {
  return
      [&bytes, most_asked, at = size_t{0}](absl::Span<char> out) mutable -> absl::StatusOr<size_t> {
        if (most_asked != nullptr) *most_asked = std::max(*most_asked, out.size());
        const size_t count = std::min(out.size(), bytes.size() - at);
        std::copy_n(bytes.data() + at, count, out.data());
        at += count;
        return count;
      };
}

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_STORAGE_PROFILE_PROFILE_TESTING_H_
