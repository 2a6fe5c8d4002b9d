#include "storage/table/addressing.h"

#include <array>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/numpy_random.h"

namespace engram {
namespace {

__extension__ using Uint128 = unsigned __int128;

uint64_t MultiplyMod(uint64_t a, uint64_t b, uint64_t modulus) {
  return static_cast<uint64_t>(static_cast<Uint128>(a) * b % modulus);
}

uint64_t PowerMod(uint64_t base, uint64_t exponent, uint64_t modulus) {
  uint64_t result = 1;
  for (base %= modulus; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = MultiplyMod(result, base, modulus);
    base = MultiplyMod(base, base, modulus);
  }
  return result;
}

template <typename T>
absl::Status CheckRange(absl::string_view name, T value, uint64_t low, uint64_t high) {
  if (std::cmp_greater_equal(value, low) && std::cmp_less_equal(value, high)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", not between ", low, " and ", high));
}

absl::Status CheckShape(int64_t max_ngram_size, int64_t heads, size_t layers) {
  ENGRAM_RETURN_IF_ERROR(CheckRange("max_ngram_size", max_ngram_size, 2, kMaxNgramSize));
  ENGRAM_RETURN_IF_ERROR(CheckRange("heads", heads, 1, kMaxHeads));
  ENGRAM_RETURN_IF_ERROR(CheckRange("layer count", layers, 1, kMaxLayers));
  const uint64_t columns = layers * static_cast<uint64_t>(max_ngram_size - 1) * heads;
  return CheckRange("column count", columns, 1, kMaxColumns);
}

// splitmix64's own step.
constexpr uint64_t kSplitMixStep = 0x9E3779B97F4A7C15u;

// Multipliers are 2v + 1 with v below this, so that no product with a token id passes 2^63.
uint64_t MultiplierBound(int64_t vocab_size) {
  return static_cast<uint64_t>(std::numeric_limits<int64_t>::max() / vocab_size / 2);
}

int64_t OddMultiplier(uint64_t v) { return static_cast<int64_t>(2 * v + 1); }

// G. L. Steele, D. Lea, C. H. Flood, 2014; the constants are D. Stafford's "Mix13".
uint64_t SplitMix(uint64_t x) {
  x += kSplitMixStep;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

}  // namespace

bool IsPrime(uint64_t value) {
  // Miller-Rabin with the first twelve primes as bases is exact below 3.3e24 (Sorenson and
  // Webster, 2015), so for every uint64.
  constexpr std::array<uint64_t, 12> kBases = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37};
  if (value < 2) return false;
  for (const uint64_t prime : kBases) {
    if (value % prime == 0) return value == prime;
  }
  const int twos = __builtin_ctzll(value - 1);
  const uint64_t odd = (value - 1) >> twos;
  for (const uint64_t base : kBases) {
    uint64_t x = PowerMod(base, odd, value);
    bool composite = x != 1 && x != value - 1;
    for (int i = 1; composite && i < twos; ++i) {
      x = MultiplyMod(x, x, value);
      composite = x != value - 1;
    }
    if (composite) return false;
  }
  return true;
}

absl::StatusOr<std::vector<std::vector<ColumnSpec>>> PrimeColumns(const AddressingSpec& addressing,
                                                                  size_t layers) {
  ENGRAM_RETURN_IF_ERROR(CheckShape(addressing.max_ngram_size, addressing.heads, layers));
  ENGRAM_RETURN_IF_ERROR(CheckRange("base size", addressing.base_size, 2, kMaxLayerRows));
  std::vector<std::vector<ColumnSpec>> result(layers);
  uint64_t candidate = addressing.base_size;
  for (std::vector<ColumnSpec>& columns : result) {
    for (int32_t order = 2; order <= addressing.max_ngram_size; ++order) {
      for (int32_t head = 0; head < addressing.heads; ++head) {
        while (!IsPrime(candidate)) ++candidate;
        columns.push_back({order, head, candidate++});
      }
    }
  }
  return result;
}

absl::StatusOr<std::vector<std::vector<ColumnSpec>>> PrimeColumnsByOrder(
    absl::Span<const uint64_t> sizes, int32_t heads, size_t layers) {
  const auto max_ngram_size = static_cast<int64_t>(sizes.size()) + 1;
  ENGRAM_RETURN_IF_ERROR(CheckShape(max_ngram_size, heads, layers));
  for (const uint64_t size : sizes) {
    ENGRAM_RETURN_IF_ERROR(CheckRange("base size", size, 2, kMaxLayerRows));
  }
  std::set<uint64_t> used;
  // Beginning anew at a size leads past all primes that were taken from there: `next` is where the
  // search from a size would come out.
  std::map<uint64_t, uint64_t> next;
  std::vector<std::vector<ColumnSpec>> result(layers);
  for (std::vector<ColumnSpec>& columns : result) {
    for (int32_t order = 2; order <= max_ngram_size; ++order) {
      const uint64_t size = sizes[order - 2];
      uint64_t& candidate = next.emplace(size, size).first->second;
      for (int32_t head = 0; head < heads; ++head) {
        while (!IsPrime(candidate) || used.contains(candidate)) ++candidate;
        used.insert(candidate);
        columns.push_back({order, head, candidate++});
      }
    }
  }
  return result;
}

absl::StatusOr<std::vector<ColumnSpec>> RatioColumns(double ratio, int64_t vocab_size,
                                                     int32_t max_ngram_size, int32_t heads) {
  ENGRAM_RETURN_IF_ERROR(CheckShape(max_ngram_size, heads, 1));
  ENGRAM_RETURN_IF_ERROR(CheckRange("vocabulary", vocab_size, 1, kMaxVocabulary));
  std::vector<ColumnSpec> columns;
  const double base = ratio * static_cast<double>(vocab_size);
  for (int32_t order = 2; order <= max_ngram_size; ++order) {
    for (int32_t head = 0; head < heads; ++head) {
      const double rows = base + 2.0 * static_cast<double>(columns.size()) + 1;
      if (!(rows >= 1 && rows <= static_cast<double>(kMaxLayerRows))) {
        return absl::InvalidArgumentError(absl::StrCat("a ratio of ", ratio, " gives a column of ",
                                                       rows, " rows, not 1 to ", kMaxLayerRows));
      }
      columns.push_back({order, head, static_cast<uint64_t>(rows)});
    }
  }
  return columns;
}

absl::StatusOr<std::vector<int64_t>> NumpyMultipliers(uint64_t seed, int64_t vocab_size,
                                                      int32_t count) {
  ENGRAM_RETURN_IF_ERROR(CheckRange("vocabulary", vocab_size, 1, kMaxVocabulary));
  ENGRAM_RETURN_IF_ERROR(CheckRange("multiplier count", count, 1, kMaxNgramSize));
  NumpyRandom random(seed);
  std::vector<int64_t> multipliers;
  for (int32_t i = 0; i < count; ++i) {
    multipliers.push_back(OddMultiplier(random.Below(MultiplierBound(vocab_size))));
  }
  return multipliers;
}

absl::StatusOr<std::vector<int64_t>> SplitMixMultipliers(uint64_t seed, uint64_t index,
                                                         int64_t vocab_size, int32_t count) {
  ENGRAM_RETURN_IF_ERROR(CheckRange("vocabulary", vocab_size, 1, kMaxVocabulary));
  ENGRAM_RETURN_IF_ERROR(CheckRange("multiplier count", count, 1, kMaxNgramSize));
  std::vector<int64_t> multipliers;
  for (int32_t i = 0; i < count; ++i) {
    const uint64_t x =
        seed + kLayerSeedStep * index + kSplitMixStep * (static_cast<uint64_t>(i) + 1);
    multipliers.push_back(OddMultiplier(SplitMix(x) % MultiplierBound(vocab_size)));
  }
  return multipliers;
}

}  // namespace engram
