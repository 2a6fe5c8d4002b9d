// Tables whose every row follows from its layer and row id, so that a row can be made, and what
// came back be checked, without keeping any of them.
//
// Pure functions.
#ifndef ENGRAM_TESTS_BENCH_TABLE_SHAPE_H_
#define ENGRAM_TESTS_BENCH_TABLE_SHAPE_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace engram::bench {

inline constexpr uint32_t kRowBytes = 264;  // of the released model: 256 values, 8 scales
inline constexpr std::array<int32_t, 2> kLayers = {1, 14};

struct TableShape {
  std::array<uint64_t, kLayers.size()> rows{};  // of each of kLayers
  uint32_t row_bytes = kRowBytes;

  uint64_t TotalRows() const;
  uint64_t Bytes() const { return TotalRows() * row_bytes; }  // of the rows
};

// The row as it must come back; of any size.
void ExpectedRow(int32_t layer, uint32_t row, absl::Span<std::byte> out);

// Compares rows as a look-up packed them with what they must be. DataLoss naming layer, row id and
// position of the first that differs. Requires row_bytes ≤ kMaxRowBytes.
absl::Status CheckRows(int32_t layer, uint32_t row_bytes, absl::Span<const uint32_t> ids,
                       absl::Span<const std::byte> rows);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_TABLE_SHAPE_H_
