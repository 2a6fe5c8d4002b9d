// A checkpoint in the layout of DeepSeek-V4.1-Flash, of any size, whose every row follows from its
// layer and row id: config.json, an index, and a shard a layer with its values and its scales.
//
// Pure functions but for WriteCheckpoint, which blocks on the drive.
#ifndef ENGRAM_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_
#define ENGRAM_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace engram::bench {

inline constexpr uint32_t kHeadDim = 256;   // values of a row, one byte each
inline constexpr uint32_t kScaleBytes = 8;  // one for each 32 values
inline constexpr uint32_t kRowBytes = kHeadDim + kScaleBytes;
inline constexpr std::array<int32_t, 2> kLayers = {1, 14};

struct CheckpointShape {
  uint64_t base_size = 0;                     // the config's engram_vocab_size
  std::array<uint64_t, kLayers.size()> rows;  // of each of kLayers

  uint64_t TotalRows() const;
  uint64_t Bytes() const { return TotalRows() * kRowBytes; }  // of the rows
};

// The smallest such table with at least `bytes` of rows. InvalidArgument when there is none.
absl::StatusOr<CheckpointShape> ShapeFor(uint64_t bytes);

// Writes the checkpoint into `directory`, which it makes; synced, page cache left alone.
// Unavailable when a write fails; Cancelled by an interrupt.
absl::Status WriteCheckpoint(const CheckpointShape& shape, const std::string& directory);

// A row as it must come back: values, then scales. `out` holds kRowBytes.
void ExpectedRow(int32_t layer, uint32_t row, std::byte* out);

// Compares rows as a look-up packed them with what they must be. DataLoss naming layer, row id and
// position of the first that differs.
absl::Status CheckRows(int32_t layer, absl::Span<const uint32_t> ids,
                       absl::Span<const std::byte> rows);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_
