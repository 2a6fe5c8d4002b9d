// Writes checkpoints in the layout of DeepSeek-V4.1-Flash, with nothing of the product's own code:
// primes by trial division, safetensors headers by hand. Every byte is derived from layer and row,
// so ExpectedRow needs no file.
#ifndef ENGRAM_TESTS_INTEGRATION_TEST_CHECKPOINT_H_
#define ENGRAM_TESTS_INTEGRATION_TEST_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace engram::testing {

inline constexpr int kHeadDim = 256;
inline constexpr uint32_t kRowBytes = kHeadDim + kHeadDim / 32;

struct TestCheckpoint {
  std::string directory;
  uint64_t base_size = 0;
  uint64_t salt = 0;
  std::vector<int> layers;
  std::vector<uint64_t> rows;  // per layer

  // The bytes of a row as they must be served.
  std::vector<std::byte> ExpectedRow(int layer, uint64_t row) const;
  uint64_t RowsOf(int layer) const;
  uint64_t TotalRows() const;
  std::string ShardPath(int layer) const;
};

// One shard a layer, two orders of two heads, so 4 columns of about `base_size` rows a layer.
TestCheckpoint WriteCheckpoint(const std::string& directory, uint64_t base_size, uint64_t salt);

// The primes from `base` on, `count` of them.
std::vector<uint64_t> PrimesFrom(uint64_t base, size_t count);

}  // namespace engram::testing

#endif  // ENGRAM_TESTS_INTEGRATION_TEST_CHECKPOINT_H_
