#include "client/cli/latency.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace engram {

void Latencies::Add(uint64_t nanos) {
  // Below 64 ns each value has its own bucket; above, the six bits after the leading one count.
  const int shift = std::max(0, static_cast<int>(std::bit_width(nanos)) - 1 - kSubBits);
  const uint64_t bucket = (static_cast<uint64_t>(shift) << kSubBits) + (nanos >> shift);
  ++buckets_[std::min<uint64_t>(bucket, buckets_.size() - 1)];
  ++count_;
  sum_ += nanos;
  max_ = std::max(max_, nanos);
}

void Latencies::Merge(const Latencies& other) {
  for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

double Latencies::mean_us() const {
  return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_) / 1e3;
}

double Latencies::QuantileUs(double q) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(q * static_cast<double>(count_)));
  uint64_t seen = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen == 0 || seen < wanted) continue;
    // Add's mapping, backwards: from shift 1 on the leading bit is part of the low bits.
    const int shift = std::max(0, static_cast<int>(i >> kSubBits) - 1);
    const uint64_t low = (i - (static_cast<uint64_t>(shift) << kSubBits)) << shift;
    const double middle = static_cast<double>(low) + static_cast<double>((1ull << shift) - 1) / 2;
    return std::min(middle, static_cast<double>(max_)) / 1e3;
  }
  return 0;
}

}  // namespace engram
