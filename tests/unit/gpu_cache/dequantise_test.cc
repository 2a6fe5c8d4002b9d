#include "gpu_cache/dequantise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace engram::gpu_cache {
namespace {

// E4M3 by its definition, in doubles.
double ValueOf(uint8_t byte) {
  const double sign = (byte & 0x80) != 0 ? -1 : 1;
  const int exponent = byte >> 3 & 0xF;
  const int mantissa = byte & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<double>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(mantissa, -9);
  return sign * std::ldexp(8 + mantissa, exponent - 10);
}

double FactorOf(uint8_t scale) { return scale == 0 ? 0.0 : std::ldexp(1.0, scale - 127); }

double DoubleOfBf16(uint16_t bits) { return FloatOfBits(static_cast<uint32_t>(bits) << 16); }

// All finite bf16 of one sign are in ascending order of their bits.
uint16_t NearestBf16(double magnitude) {
  constexpr uint16_t kInfinity = 0x7F80;
  uint16_t low = 0;
  uint16_t high = kInfinity;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (DoubleOfBf16(middle) <= magnitude ? low : high) = middle;
  }
  // Beyond the largest number the next one would be 2^128, which reads as infinity.
  const double above = high == kInfinity ? std::ldexp(1.0, 128) : DoubleOfBf16(high);
  const double to_low = magnitude - DoubleOfBf16(low);
  const double to_high = above - magnitude;
  if (to_low != to_high) return to_low < to_high ? low : high;
  return low % 2 == 0 ? low : high;
}

TEST(DequantiseTest, EveryValueWithEveryScaleIsTheNearestBf16) {
  for (int scale = 0; scale < 256; ++scale) {
    for (int value = 0; value < 256; ++value) {
      const uint16_t got =
          Dequantise(static_cast<uint8_t>(value), ScaleOf(static_cast<uint8_t>(scale)));
      const double exact =
          ValueOf(static_cast<uint8_t>(value)) * FactorOf(static_cast<uint8_t>(scale));
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(DoubleOfBf16(got))) << value << " " << scale;
        continue;
      }
      const auto wanted =
          static_cast<uint16_t>(NearestBf16(std::abs(exact)) | (std::signbit(exact) ? 0x8000 : 0));
      ASSERT_EQ(got, wanted) << "value " << value << " scale " << scale << " is " << exact;
    }
  }
}

TEST(DequantiseTest, KnownValues) {
  const Scale one = ScaleOf(127);
  EXPECT_EQ(Dequantise(0x38, one), 0x3F80);           // 1.0
  EXPECT_EQ(Dequantise(0xB8, one), 0xBF80);           // −1.0
  EXPECT_EQ(Dequantise(0x7E, one), 0x43E0);           // 448, the largest
  EXPECT_EQ(Dequantise(0x01, one), 0x3B00);           // 2^−9, the smallest
  EXPECT_EQ(Dequantise(0x38, ScaleOf(128)), 0x4000);  // 2.0
  EXPECT_EQ(Dequantise(0x38, ScaleOf(0)), 0x0000);
  EXPECT_EQ(Dequantise(0x38, ScaleOf(254)), 0x7F00);  // 2^127
  EXPECT_EQ(Dequantise(0x38, ScaleOf(255)), 0x7F80);  // 2^128: infinity
  EXPECT_EQ(Dequantise(0x01, ScaleOf(255)), 0x7B00);  // 2^119
}

TEST(DequantiseTest, AWordHasItsValuesInOrder) {
  const uint64_t values = 0x38B8007E01FE40C0ull;
  const Bf16x8 eight = DequantiseWord(values, 130);
  for (int i = 0; i < 8; ++i) {
    const uint64_t half = i < 4 ? eight.low : eight.high;
    EXPECT_EQ(static_cast<uint16_t>(half >> (16 * (i % 4))),
              Dequantise(static_cast<uint8_t>(values >> (8 * i)), ScaleOf(130)));
  }
}

TEST(DequantiseTest, OnlyRowsWithAScaleABlockAreQuantised) {
  EXPECT_EQ(QuantisedValues(264), 256u);
  EXPECT_EQ(QuantisedValues(33), 32u);
  EXPECT_EQ(QuantisedValues(256), 0u);
  EXPECT_EQ(QuantisedValues(265), 0u);
  EXPECT_EQ(QuantisedValues(32), 0u);
}

}  // namespace
}  // namespace engram::gpu_cache
