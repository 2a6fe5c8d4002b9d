// Rows that tell whether they are whole: every byte follows from the row's id.
#ifndef ENGRAM_TESTS_UNIT_STORAGE_DRAM_DERIVED_ROWS_H_
#define ENGRAM_TESTS_UNIT_STORAGE_DRAM_DERIVED_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace engram::dram_test {

inline void DeriveRow(uint32_t id, absl::Span<std::byte> out) {
  uint64_t state = (uint64_t{id} + 1) * 0x9E3779B97F4A7C15ull;
  for (std::byte& byte : out) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    byte = static_cast<std::byte>(state >> 56);
  }
}

}  // namespace engram::dram_test

#endif  // ENGRAM_TESTS_UNIT_STORAGE_DRAM_DERIVED_ROWS_H_
