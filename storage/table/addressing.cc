#include "storage/table/addressing.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

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

absl::Status CheckRange(absl::string_view name, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", not between ", low, " and ", high));
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
  ENGRAM_RETURN_IF_ERROR(CheckRange("max_ngram_size", addressing.max_ngram_size, 2, 16));
  ENGRAM_RETURN_IF_ERROR(CheckRange("heads", addressing.heads, 1, 256));
  ENGRAM_RETURN_IF_ERROR(CheckRange("base size", addressing.base_size, 2, kMaxLayerRows));
  ENGRAM_RETURN_IF_ERROR(CheckRange("layer count", layers, 1, kMaxLayers));
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

}  // namespace engram
