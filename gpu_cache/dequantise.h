// Rows of 8-bit floats with a scale a block, as bf16: the second form in which a gather gives rows.
//
// A row has V values of format E4M3 ("FN": 4 exponent bits of bias 7, 3 of mantissa, no infinity,
// 0x7F and 0xFF are NaN; OCP 8-bit floating point specification, 2023), V a multiple of 32, and
// behind them V / 32 scales of format E8M0, one for each 32 values:
//   value × 2^(scale − 127), scale byte 0 → factor 0.0, rounded to bf16 to nearest, ties to even.
// That is how DeepSeek-V4.1's layers are read (256 values and 8 scales, 264 bytes). The product is
// exact in float before it is rounded, subnormal numbers included; no factor is left out, also not
// 2^128 for scale byte 255.
#ifndef ENGRAM_GPU_CACHE_DEQUANTISE_H_
#define ENGRAM_GPU_CACHE_DEQUANTISE_H_

#include <cstdint>
#include <cstring>

#include "gpu_cache/portable.h"

namespace engram::gpu_cache {

inline constexpr uint32_t kScaleBlock = 32;

// The values of such a row, 0 if rows of this size are none.
constexpr uint32_t QuantisedValues(uint32_t row_bytes) {
  const uint32_t blocks = row_bytes / (kScaleBlock + 1);
  return blocks * (kScaleBlock + 1) == row_bytes ? blocks * kScaleBlock : 0;
}

ENGRAM_HD float FloatOfBits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

ENGRAM_HD uint32_t BitsOfFloat(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

// The two factors of a block; their product is 2^120 × 2^(scale − 127). The 2^120 is the difference
// of the biases of float and E4M3; taken one after the other, neither result is rounded.
struct Scale {
  float first = 0;
  float second = 0;
};
ENGRAM_HD Scale ScaleOf(uint8_t scale) {
  constexpr uint32_t kTwoTo120 = (120u + 127) << 23;
  constexpr uint32_t kTwoTo121 = (121u + 127) << 23;
  if (scale == 255) return {FloatOfBits(kTwoTo121), FloatOfBits(254u << 23)};
  return {FloatOfBits(kTwoTo120), FloatOfBits(uint32_t{scale} << 23)};
}

// One value as bf16.
ENGRAM_HD uint16_t Dequantise(uint8_t value, Scale scale) {
  const uint32_t magnitude = value & 0x7Fu;
  const uint32_t sign = (value & 0x80u) << 8;
  // Exponent and mantissa in a float's places: a subnormal one of E4M3 becomes one of float, and
  // the multiplication sets both right.
  const float product = FloatOfBits(magnitude << 20) * scale.first * scale.second;
  const uint32_t bits = BitsOfFloat(product);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(sign | (magnitude == 0x7F ? 0x7FC0u : rounded));
}

// Eight values of one block, as they lie in a row, to eight bf16: the lower halves first.
struct alignas(16) Bf16x8 {
  uint64_t low = 0;
  uint64_t high = 0;
};
ENGRAM_HD Bf16x8 DequantiseWord(uint64_t values, uint8_t scale_byte) {
  const Scale scale = ScaleOf(scale_byte);
  Bf16x8 out;
  for (int i = 0; i < 4; ++i) {
    out.low |= uint64_t{Dequantise(static_cast<uint8_t>(values >> (8 * i)), scale)} << (16 * i);
    out.high |= uint64_t{Dequantise(static_cast<uint8_t>(values >> (8 * i + 32)), scale)}
                << (16 * i);
  }
  return out;
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_DEQUANTISE_H_
