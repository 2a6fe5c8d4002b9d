#include "client/cli/latency.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(LatenciesTest, EmptyGivesZeros) {
  const Latencies latencies;
  EXPECT_EQ(latencies.QuantileUs(0.5), 0);
  EXPECT_EQ(latencies.mean_us(), 0);
  EXPECT_EQ(latencies.max_us(), 0);
}

TEST(LatenciesTest, OneValueIsFoundWithin2PercentAtEverySize) {
  for (uint64_t nanos = 1; nanos < uint64_t{1} << 60; nanos = nanos * 3 + 1) {
    Latencies latencies;
    latencies.Add(nanos);
    const double us = static_cast<double>(nanos) / 1e3;
    for (const double q : {0.0, 0.5, 1.0}) EXPECT_NEAR(latencies.QuantileUs(q), us, us * 0.016);
    EXPECT_EQ(latencies.max_us(), us);
  }
}

TEST(LatenciesTest, QuantilesOfARampAndOfTwoMerged) {
  Latencies low, high;
  for (uint64_t i = 1; i <= 5000; ++i) low.Add(i * 1000);
  for (uint64_t i = 5001; i <= 10000; ++i) high.Add(i * 1000);
  low.Merge(high);
  EXPECT_EQ(low.count(), 10000u);
  EXPECT_NEAR(low.QuantileUs(0.5), 5000, 80);
  EXPECT_NEAR(low.QuantileUs(0.99), 9900, 160);
  EXPECT_LE(low.QuantileUs(1), low.max_us());
  EXPECT_EQ(low.max_us(), 10000);
  EXPECT_NEAR(low.mean_us(), 5000.5, 0.01);
}

}  // namespace
}  // namespace engram
