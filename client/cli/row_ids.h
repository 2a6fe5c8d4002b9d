// Row ids as a load generator wants them: uniform, or by Zipf's law with the frequent ones spread
// over the whole table.
#ifndef ENGRAM_CLIENT_CLI_ROW_IDS_H_
#define ENGRAM_CLIENT_CLI_ROW_IDS_H_

#include <cstdint>

namespace engram {

// SplitMix64: 64 good bits in a nanosecond, the same everywhere for the same seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  double Unit();  // [0, 1)

 private:
  uint64_t state_;
};

// 0 … rows−1, each equally likely. Requires rows > 0.
uint32_t UniformRow(Random& random, uint64_t rows);

// P(rank k) ∝ k^−alpha for k = 1 … rows, by rejection-inversion (W. Hörmann, G. Derflinger, 1996):
// constant memory and time for any number of rows. Requires rows in 1 … 2^32 − 1, alpha in 0.01 …
// 10. Immutable, so any thread may use it.
class ZipfRows {
 public:
  ZipfRows(uint64_t rows, double alpha);

  // 1 … rows; 1 is the most frequent.
  uint64_t Rank(Random& random) const;
  // Its row: ranks are spread by a multiplication modulo rows, which maps no two to one.
  uint32_t Row(Random& random) const;

 private:
  double H(double x) const;
  double Integral(double x) const;
  double InverseIntegral(double y) const;

  uint64_t rows_;
  double alpha_;
  double integral_first_;
  double integral_last_;
  double shortcut_;
  uint64_t multiplier_;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_ROW_IDS_H_
