#include "storage/dram/policy_duel.h"

#include <algorithm>

#include "storage/dram/layout.h"

namespace engram::dram {
namespace {

// One set in so many leads for each policy. What the worse one costs there is lost.
constexpr size_t kSpacing = 64;
// So that at least 64 sets lead for each: fewer do not represent the others to within the margin
// below. (The cache has then 61,440 rows; smaller ones are ruled by frequency.)
constexpr uint32_t kLeastSets = 4096;

// A review wants so many misses of leading sets.
constexpr uint64_t kLeastPeriod = 4096;
// What of the older misses counts at each review.
constexpr double kMemory = 0.75;
// By how much of the leaders' misses one policy has to win. By chance alone the difference of two
// samples of 64 sets is some 0.6 %.
constexpr double kMargin = 0.015;

}  // namespace

PolicyDuel::PolicyDuel(uint32_t sets)
    : fights_(sets >= kLeastSets),
      // Half of what the leaders of one policy hold, and so about half of the cache's rows missed.
      period_(std::max(kLeastPeriod, uint64_t{sets} / kSpacing * kWays)) {}

Policy PolicyDuel::PolicyOf(size_t set) const {
  const size_t place = set % kSpacing;
  if (!fights_ || place > 1) return winner();
  return place == 0 ? Policy::kFrequency : Policy::kRecency;
}

void PolicyDuel::Missed(size_t set) {
  const size_t place = set % kSpacing;
  if (!fights_ || place > 1) return;
  (place == 0 ? frequency_misses_ : recency_misses_).fetch_add(1, std::memory_order_relaxed);
  Review();
}

void PolicyDuel::Review() {
  const auto misses = [this] {
    return frequency_misses_.load(std::memory_order_relaxed) +
           recency_misses_.load(std::memory_order_relaxed);
  };
  if (misses() < period_ || reviewing_.exchange(true, std::memory_order_acquire)) return;
  // Another thread may just have done it.
  if (misses() >= period_) {
    const auto frequency = static_cast<double>(frequency_misses_.exchange(0));
    const auto recency = static_cast<double>(recency_misses_.exchange(0));
    frequency_sum_ = frequency_sum_ * kMemory + frequency;
    recency_sum_ = recency_sum_ * kMemory + recency;
    const double lead = (frequency_sum_ - recency_sum_) / (frequency_sum_ + recency_sum_);
    if (lead > kMargin) winner_.store(Policy::kRecency, std::memory_order_relaxed);
    if (lead < -kMargin) winner_.store(Policy::kFrequency, std::memory_order_relaxed);
  }
  reviewing_.store(false, std::memory_order_release);
}

}  // namespace engram::dram
