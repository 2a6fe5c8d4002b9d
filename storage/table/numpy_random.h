// The random integers of numpy's `default_rng(seed).integers(…)`, reproduced bit for bit: models
// draw their hash multipliers from them.
//
// SeedSequence (M. E. O'Neill's seed_seq_fe with a pool of four words) seeds PCG64 (XSL-RR, 128
// bits), whose words become bounded integers by Lemire's method. All three are part of numpy's
// stream compatibility: numpy/random/bit_generator.pyx, src/pcg64, src/distributions.
//
// A value; one thread at a time.
#ifndef ENGRAM_STORAGE_TABLE_NUMPY_RANDOM_H_
#define ENGRAM_STORAGE_TABLE_NUMPY_RANDOM_H_

#include <cstdint>

namespace engram {

class NumpyRandom {
 public:
  // default_rng(seed)
  explicit NumpyRandom(uint64_t seed);

  // One element of integers(0, bound, dtype=int64): uniform on 0 … bound − 1. Requires bound > 0.
  uint64_t Below(uint64_t bound);

 private:
  __extension__ using Uint128 = unsigned __int128;

  uint64_t Next64();
  uint32_t Next32();  // the halves of a Next64, the low one first

  Uint128 state_ = 0;
  Uint128 increment_ = 0;
  uint32_t half_ = 0;
  bool has_half_ = false;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_NUMPY_RANDOM_H_
