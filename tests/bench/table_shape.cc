#include "tests/bench/table_shape.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

namespace engram::bench {
namespace {

// The finaliser of splitmix64 over a counter: cheap, and no two rows alike.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// One multiplication a word: the row's seed is well mixed already.
uint64_t Word(uint64_t seed, size_t index) {
  const uint64_t word = (seed + index * kGolden) * 0xD6E8FEB86659FD93ull;
  return word ^ (word >> 32);
}

}  // namespace

uint64_t TableShape::TotalRows() const {
  uint64_t total = 0;
  for (const uint64_t layer : rows) total += layer;
  return total;
}

void ExpectedRow(int32_t layer, uint32_t row, absl::Span<std::byte> out) {
  const uint64_t seed = Mix((static_cast<uint64_t>(layer) << 32) + row + kGolden);
  const size_t words = out.size() / sizeof(uint64_t);
  for (size_t i = 0; i < words; ++i) {
    const uint64_t word = Word(seed, i);
    std::memcpy(out.data() + i * sizeof(word), &word, sizeof(word));
  }
  const uint64_t last = Word(seed, words);
  std::memcpy(out.data() + words * sizeof(last), &last, out.size() % sizeof(last));
}

absl::Status CheckRows(int32_t layer, uint32_t row_bytes, absl::Span<const uint32_t> ids,
                       absl::Span<const std::byte> rows) {
  if (rows.size() != ids.size() * row_bytes) {
    return absl::InternalError(absl::StrCat(ids.size(), " rows in ", rows.size(), " bytes"));
  }
  std::vector<std::byte> expected(row_bytes);
  for (size_t i = 0; i < ids.size(); ++i) {
    ExpectedRow(layer, ids[i], absl::MakeSpan(expected));
    if (std::memcmp(expected.data(), rows.data() + i * row_bytes, row_bytes) != 0) {
      return absl::DataLossError(absl::StrCat("row ", ids[i], " of layer ", layer, " at position ",
                                              i, " is not what was loaded"));
    }
  }
  return absl::OkStatus();
}

}  // namespace engram::bench
