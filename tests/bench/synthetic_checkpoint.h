// A checkpoint in the layout of DeepSeek-V4.1-Flash, of any size, with the rows of table_shape.h:
// config.json, an index, and a shard a layer with its values and its scales.
//
// Pure functions but for WriteCheckpoint, which blocks on the drive.
#ifndef ENGRAM_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_
#define ENGRAM_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/table_shape.h"

namespace engram::bench {

inline constexpr uint32_t kHeadDim = 256;   // values of a row, one byte each
inline constexpr uint32_t kScaleBytes = 8;  // one for each 32 values
static_assert(kRowBytes == kHeadDim + kScaleBytes);

struct CheckpointShape : TableShape {
  uint64_t base_size = 0;  // the config's engram_vocab_size
};

// The smallest such table with at least `bytes` of rows. InvalidArgument when there is none.
absl::StatusOr<CheckpointShape> ShapeFor(uint64_t bytes);

// Writes the checkpoint into `directory`, which it makes; synced, page cache left alone.
// Unavailable when a write fails; Cancelled by an interrupt.
absl::Status WriteCheckpoint(const CheckpointShape& shape, const std::string& directory);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_
