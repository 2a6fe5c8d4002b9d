// Latencies of any number of calls in fixed memory, exact to 1.6 %.
#ifndef ENGRAM_CLIENT_CLI_LATENCY_H_
#define ENGRAM_CLIENT_CLI_LATENCY_H_

#include <array>
#include <cstdint>

namespace engram {

// 64 buckets a power of two of nanoseconds. One thread; Merge joins those of several.
class Latencies {
 public:
  void Add(uint64_t nanos);
  void Merge(const Latencies& other);

  uint64_t count() const { return count_; }
  double max_us() const { return static_cast<double>(max_) / 1e3; }
  double mean_us() const;
  // The middle of the bucket where that share of the calls is reached, but never more than the
  // maximum; 0 without calls.
  double QuantileUs(double q) const;

 private:
  static constexpr int kSubBits = 6;
  std::array<uint64_t, 64 << kSubBits> buckets_{};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
  uint64_t max_ = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_LATENCY_H_
