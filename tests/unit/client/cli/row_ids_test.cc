#include "client/cli/row_ids.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace engram {
namespace {

TEST(UniformRowTest, ReachesEveryRowAndNoOther) {
  Random random(1);
  std::vector<int> hits(10);
  for (int i = 0; i < 10000; ++i) ++hits.at(UniformRow(random, 10));
  for (const int count : hits) EXPECT_NEAR(count, 1000, 150);
}

TEST(ZipfRowsTest, FollowsTheLaw) {
  constexpr int kRows = 1000;
  constexpr int kDraws = 200000;
  for (const double alpha : {0.5, 0.8, 1.0, 1.05, 2.0}) {
    double norm = 0;
    for (int k = 1; k <= kRows; ++k) norm += std::pow(k, -alpha);
    const ZipfRows zipf(kRows, alpha);
    Random random(7);
    std::vector<int> hits(kRows + 1);
    for (int i = 0; i < kDraws; ++i) ++hits.at(zipf.Rank(random));
    EXPECT_EQ(hits[0], 0);
    for (const int k : {1, 2, 3, 10, 50}) {
      const double want = kDraws * std::pow(k, -alpha) / norm;
      EXPECT_NEAR(hits[static_cast<size_t>(k)], want, 6 * std::sqrt(want)) << alpha << " " << k;
    }
  }
}

TEST(ZipfRowsTest, SpreadsRanksWithoutLosingAny) {
  for (const uint64_t rows : {1, 2, 6, 97, 360}) {
    const ZipfRows zipf(rows, 0.01);
    Random random(3);
    std::set<uint32_t> seen;
    for (int i = 0; i < 20000; ++i) seen.insert(zipf.Row(random));
    EXPECT_EQ(seen.size(), rows);
    EXPECT_LT(*seen.rbegin(), rows);
  }
}

TEST(ZipfRowsTest, StaysInTheLargestTable) {
  constexpr uint64_t kRows = 0xFFFFFFFFull;
  const ZipfRows zipf(kRows, 0.8);
  Random random(5);
  for (int i = 0; i < 100000; ++i) EXPECT_LT(zipf.Row(random), kRows);
}

}  // namespace
}  // namespace engram
