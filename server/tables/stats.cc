#include "server/tables/stats.h"

#include <algorithm>
#include <bit>

namespace engram {

std::array<double, kLatencyBounds> LatencyBounds() {
  std::array<double, kLatencyBounds> bounds{};
  for (size_t i = 0; i < kLatencyBounds; ++i) {
    bounds[i] = static_cast<double>(uint64_t{1} << i) * 1e-6;
  }
  return bounds;
}

double LatencySnapshot::Quantile(double q) const {
  if (count == 0) return 0;
  const std::array<double, kLatencyBounds> bounds = LatencyBounds();
  const double rank = std::clamp(q, 0.0, 1.0) * static_cast<double>(count);
  double below = 0;
  for (size_t i = 0; i < kLatencyBounds; ++i) {
    const double here = static_cast<double>(counts[i]);
    if (here > 0 && below + here >= rank) {
      const double lower = i == 0 ? 0 : bounds[i - 1];
      return lower + (bounds[i] - lower) * (rank - below) / here;
    }
    below += here;
  }
  // In the last bucket there is nothing to interpolate to: it has no upper bound.
  return bounds.back();
}

void LatencyHistogram::Observe(std::chrono::nanoseconds elapsed) {
  const uint64_t ns = elapsed.count() > 0 ? static_cast<uint64_t>(elapsed.count()) : 0;
  // Bounds are whole microseconds and inclusive, so rounding up keeps the comparison exact:
  // bucket i takes 2^(i-1) < us <= 2^i.
  const uint64_t us = ns / 1000 + (ns % 1000 != 0);
  const size_t bucket = us <= 1 ? 0 : static_cast<size_t>(std::bit_width(us - 1));
  counts_[std::min(bucket, kLatencyBounds)].fetch_add(1, std::memory_order_relaxed);
  sum_ns_.fetch_add(ns, std::memory_order_relaxed);
}

LatencySnapshot LatencyHistogram::Snapshot() const {
  LatencySnapshot snapshot;
  for (size_t i = 0; i < counts_.size(); ++i) {
    snapshot.counts[i] = counts_[i].load(std::memory_order_relaxed);
    // The count is the sum of the buckets, never a counter of its own: the two always agree.
    snapshot.count += snapshot.counts[i];
  }
  snapshot.sum_seconds = static_cast<double>(sum_ns_.load(std::memory_order_relaxed)) * 1e-9;
  return snapshot;
}

LayerProbe& TableProbe::Layer(LayerId layer) {
  MutexLock lock(mutex_);
  std::unique_ptr<LayerProbe>& probe = layers_[layer];
  if (probe == nullptr) probe = std::make_unique<LayerProbe>();
  return *probe;
}

void TableProbe::AddPrefetches(TableSnapshot& snapshot) {
  MutexLock lock(mutex_);
  for (const auto& [layer, probe] : layers_) {
    snapshot.prefetched_rows += probe->prefetch.stored.load(std::memory_order_relaxed);
    snapshot.prefetched_used_rows += probe->prefetch.used.load(std::memory_order_relaxed);
    snapshot.prefetched_unused_rows += probe->prefetch.unused.load(std::memory_order_relaxed);
    snapshot.prefetched_late_rows += probe->late_rows.load(std::memory_order_relaxed);
  }
}

double LayerSnapshot::HitRatio(TierKind kind) const {
  // A failed row asked for a tier too; a zero row never does.
  uint64_t asked = failed_rows;
  for (const TierSnapshot& tier : tiers) asked += tier.hits;
  if (asked == 0) return 0;
  return static_cast<double>(tiers[static_cast<size_t>(kind)].hits) / static_cast<double>(asked);
}

}  // namespace engram
