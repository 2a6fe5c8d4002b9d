#include "server/tables/stats.h"

#include <chrono>
#include <cmath>
#include <set>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

size_t BucketOf(nanoseconds elapsed) {
  LatencyHistogram histogram;
  histogram.Observe(elapsed);
  const LatencySnapshot snapshot = histogram.Snapshot();
  size_t bucket = snapshot.counts.size();
  for (size_t i = 0; i < snapshot.counts.size(); ++i) {
    if (snapshot.counts[i] != 0) bucket = i;
  }
  return bucket;
}

TEST(LatencyBounds, DoubleFromOneMicrosecond) {
  const auto bounds = LatencyBounds();
  EXPECT_DOUBLE_EQ(bounds.front(), 1e-6);
  EXPECT_DOUBLE_EQ(bounds.back(), 16.777216);
  for (size_t i = 1; i < bounds.size(); ++i) EXPECT_DOUBLE_EQ(bounds[i], 2 * bounds[i - 1]);
}

TEST(LatencyHistogram, PutsEachTimeUnderItsInclusiveBound) {
  EXPECT_EQ(BucketOf(nanoseconds(-5)), 0u);
  EXPECT_EQ(BucketOf(nanoseconds(0)), 0u);
  for (size_t i = 0; i < kLatencyBounds; ++i) {
    const nanoseconds bound = microseconds(int64_t{1} << i);
    EXPECT_EQ(BucketOf(bound), i);
    EXPECT_EQ(BucketOf(bound + nanoseconds(1)), i + 1);
  }
  EXPECT_EQ(BucketOf(nanoseconds::max()), kLatencyBounds);
}

TEST(LatencyHistogram, CountsAndSums) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.Snapshot().count, 0u);
  histogram.Observe(microseconds(3));
  histogram.Observe(seconds(2));
  const LatencySnapshot snapshot = histogram.Snapshot();
  EXPECT_EQ(snapshot.count, 2u);
  EXPECT_NEAR(snapshot.sum_seconds, 2.000003, 1e-9);
}

TEST(LatencySnapshot, QuantileIsZeroBeforeTheFirst) {
  EXPECT_EQ(LatencySnapshot().Quantile(0.5), 0);
}

TEST(LatencySnapshot, QuantileInterpolatesInsideTheBucket) {
  LatencySnapshot snapshot;
  snapshot.counts[2] = 10;  // 2 to 4 µs
  snapshot.counts[4] = 10;  // 8 to 16 µs
  snapshot.count = 20;
  EXPECT_DOUBLE_EQ(snapshot.Quantile(0.25), 3e-6);
  EXPECT_DOUBLE_EQ(snapshot.Quantile(0.5), 4e-6);
  EXPECT_DOUBLE_EQ(snapshot.Quantile(0.75), 12e-6);
  EXPECT_DOUBLE_EQ(snapshot.Quantile(1), 16e-6);
  EXPECT_DOUBLE_EQ(snapshot.Quantile(7), 16e-6) << "clamped";
  EXPECT_DOUBLE_EQ(snapshot.Quantile(0), 2e-6);
}

TEST(LatencySnapshot, QuantileInTheLastBucketIsTheLastBound) {
  LatencyHistogram histogram;
  histogram.Observe(seconds(100));
  EXPECT_DOUBLE_EQ(histogram.Snapshot().Quantile(0.5), 16.777216);
}

TEST(LatencySnapshot, QuantileIsWithinAFactorOfTwo) {
  LatencyHistogram histogram;
  for (int us = 1; us <= 10000; ++us) histogram.Observe(microseconds(us));
  const LatencySnapshot snapshot = histogram.Snapshot();
  for (const double q : {0.1, 0.5, 0.9, 0.99}) {
    EXPECT_LT(std::abs(std::log2(snapshot.Quantile(q) / (q * 1e-2))), 1) << q;
  }
}

TEST(TableProbe, OneLayerOneProbe) {
  TableProbe table;
  LayerProbe& first = table.Layer(LayerId{1});
  EXPECT_NE(&first, &table.Layer(LayerId{14}));
  EXPECT_EQ(&first, &table.Layer(LayerId{1}));
}

TEST(TableProbe, CountsFromManyThreads) {
  TableProbe table;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&table] {
      for (int i = 0; i < 1000; ++i) {
        table.Layer(LayerId{i % 3}).hits[1].fetch_add(2, std::memory_order_relaxed);
        table.lookup_seconds.Observe(microseconds(i));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t hits = 0;
  for (int layer = 0; layer < 3; ++layer) hits += table.Layer(LayerId{layer}).hits[1];
  EXPECT_EQ(hits, 8000u);
  EXPECT_EQ(table.lookup_seconds.Snapshot().count, 4000u);
}

TEST(LayerSnapshot, HitRatioCountsFailedRowsButNotZeroRows) {
  LayerSnapshot layer;
  EXPECT_EQ(layer.HitRatio(TierKind::kDram), 0);
  layer.zero_rows = 1000;
  EXPECT_EQ(layer.HitRatio(TierKind::kDram), 0);
  layer.tiers[0].hits = 10;
  layer.tiers[1].hits = 60;
  layer.tiers[2].hits = 20;
  layer.failed_rows = 10;
  EXPECT_DOUBLE_EQ(layer.HitRatio(TierKind::kHbm), 0.1);
  EXPECT_DOUBLE_EQ(layer.HitRatio(TierKind::kDram), 0.6);
  EXPECT_DOUBLE_EQ(layer.HitRatio(TierKind::kNvme), 0.2);
}

}  // namespace
}  // namespace engram
