#include "client/cli/row_ids.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace engram {
namespace {

// log1p(x) / x and expm1(x) / x, which have a limit at 0 but no value.
double Log1pRatio(double x) {
  return std::abs(x) > 1e-8 ? std::log1p(x) / x : 1 - x * (0.5 - x * (1.0 / 3 - 0.25 * x));
}
double Expm1Ratio(double x) {
  return std::abs(x) > 1e-8 ? std::expm1(x) / x : 1 + x * 0.5 * (1 + x / 3 * (1 + 0.25 * x));
}

uint64_t Spread(uint64_t rows) {
  auto multiplier = static_cast<uint64_t>(static_cast<double>(rows) * 0.6180339887498949);
  multiplier = std::max<uint64_t>(multiplier, 1);
  while (std::gcd(multiplier, rows) != 1) ++multiplier;
  return multiplier;
}

}  // namespace

uint64_t Random::Next() {
  uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

double Random::Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

uint32_t UniformRow(Random& random, uint64_t rows) {
  return static_cast<uint32_t>((static_cast<unsigned __int128>(random.Next()) * rows) >> 64);
}

ZipfRows::ZipfRows(uint64_t rows, double alpha)
    : rows_(rows),
      alpha_(alpha),
      integral_first_(Integral(1.5) - 1),
      integral_last_(Integral(static_cast<double>(rows) + 0.5)),
      shortcut_(2 - InverseIntegral(Integral(2.5) - H(2))),
      multiplier_(Spread(rows)) {}

double ZipfRows::H(double x) const { return std::exp(-alpha_ * std::log(x)); }

double ZipfRows::Integral(double x) const {
  const double log_x = std::log(x);
  return Expm1Ratio((1 - alpha_) * log_x) * log_x;
}

double ZipfRows::InverseIntegral(double y) const {
  const double t = std::max(y * (1 - alpha_), -1.0);
  return std::exp(Log1pRatio(t) * y);
}

uint64_t ZipfRows::Rank(Random& random) const {
  while (true) {
    const double u = integral_last_ + random.Unit() * (integral_first_ - integral_last_);
    const double x = InverseIntegral(u);
    const double rank = std::clamp(std::floor(x + 0.5), 1.0, static_cast<double>(rows_));
    if (rank - x <= shortcut_ || u >= Integral(rank + 0.5) - H(rank)) {
      return static_cast<uint64_t>(rank);
    }
  }
}

uint32_t ZipfRows::Row(Random& random) const {
  // Both factors are below 2^32.
  return static_cast<uint32_t>((Rank(random) - 1) * multiplier_ % rows_);
}

}  // namespace engram
