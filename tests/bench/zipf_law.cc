#include "tests/bench/zipf_law.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "storage/dram/layout.h"

namespace engram::bench {
namespace {

// (e^x − 1) / x and log(1 + x) / x, also near 0: the law is continuous in α at 1.
double ExpRatio(double x) { return std::abs(x) > 1e-8 ? std::expm1(x) / x : 1 + x / 2; }
double LogRatio(double x) { return std::abs(x) > 1e-8 ? std::log1p(x) / x : 1 - x / 2; }

}  // namespace

uint64_t TraceRandom::operator()() {
  uint64_t x = state_ += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

ZipfRanks::ZipfRanks(uint64_t count, double alpha)
    : count_(count),
      alpha_(alpha),
      h_first_(H(1.5) - 1),
      h_last_(H(static_cast<double>(count) + 0.5)),
      squeeze_(2 - Inverse(H(2.5) - Density(2))) {}

// The integral of x^-α: (x^(1−α) − 1) / (1 − α), log x at α = 1.
double ZipfRanks::H(double x) const {
  const double log_x = std::log(x);
  return ExpRatio((1 - alpha_) * log_x) * log_x;
}

double ZipfRanks::Inverse(double x) const {
  return std::exp(LogRatio(std::max(-1.0, x * (1 - alpha_))) * x);
}

double ZipfRanks::Density(double x) const { return std::exp(-alpha_ * std::log(x)); }

uint64_t ZipfRanks::operator()(TraceRandom& random) const {
  while (true) {
    const double u = h_last_ + random.Unit() * (h_first_ - h_last_);
    const double x = Inverse(u);
    const double rank = std::clamp(std::floor(x + 0.5), 1.0, static_cast<double>(count_));
    if (rank - x <= squeeze_ || u >= H(rank + 0.5) - Density(rank)) {
      return static_cast<uint64_t>(rank);
    }
  }
}

RankedRows ShuffleRows(uint32_t rows, uint64_t seed) {
  RankedRows ranked(rows);
  for (uint32_t i = 0; i < rows; ++i) ranked[i] = i;
  return MoveRows(std::move(ranked), 1, seed);
}

RankedRows MoveRows(RankedRows ranked, double share, uint64_t seed) {
  TraceRandom random(seed);
  std::vector<uint32_t> moving;  // ranks, less 1
  for (uint32_t i = 0; i < ranked.size(); ++i) {
    if (random.Unit() < share) moving.push_back(i);
  }
  for (size_t i = moving.size(); i > 1; --i) {
    std::swap(ranked[moving[i - 1]], ranked[moving[random() % i]]);
  }
  return ranked;
}

ZipfLaw::ZipfLaw(uint32_t rows, double alpha)
    : rows_(rows), alpha_(alpha), ranks_(rows, alpha), total_(Total(rows)) {}

double ZipfLaw::Total(uint32_t ranks) const {
  double sum = 0;
  for (uint32_t rank = ranks; rank >= 1; --rank) sum += std::pow(rank, -alpha_);
  return sum;
}

double ZipfLaw::StaticHitRatio(uint32_t held) const {
  return Total(std::min(held, rows_)) / total_;
}

double ZipfLaw::StaticHitRatioInSets(uint32_t sets, const RankedRows& ranked) const {
  std::vector<uint8_t> held(sets);
  double sum = 0;
  for (uint32_t rank = 1; rank <= rows_; ++rank) {
    uint8_t& ways = held[dram::SetOf(dram::HashRowId(ranked[rank - 1]), sets)];
    if (ways == dram::kWays) continue;
    ++ways;
    sum += std::pow(rank, -alpha_);
  }
  return sum / total_;
}

}  // namespace engram::bench
