#include "server/placement/hbm_admission.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "tests/test_seed.h"

namespace engram {
namespace {

using gpu_cache::kEmptyTag;
using gpu_cache::kWays;
using gpu_cache::RegionShape;

constexpr uint64_t kLayerRows = 1000000;

RegionShape Sectors(uint32_t sectors) { return {.row_bytes = 64, .sectors = sectors}; }

std::set<uint32_t> WantedRows(const HbmAdmission& choice, uint32_t sectors) {
  std::set<uint32_t> rows;
  for (uint32_t sector = 0; sector < sectors; ++sector) {
    for (const uint32_t tag : choice.Wanted(sector)) {
      if (tag == kEmptyTag) continue;
      const uint32_t row = gpu_cache::TagOf(tag);
      EXPECT_EQ(gpu_cache::SectorOf(row, sectors, false), sector);
      EXPECT_TRUE(rows.insert(row).second) << "row " << row << " is wanted twice";
    }
  }
  EXPECT_EQ(rows.size(), choice.wanted_rows());
  return rows;
}

TEST(HbmAdmissionTest, BeginsEmptyAndTakesWhatComes) {
  HbmAdmission choice(Sectors(16), kLayerRows);
  EXPECT_EQ(choice.wanted_rows(), 0u);
  choice.Access(5);
  choice.Access(5);
  choice.Seed(9, 255);
  EXPECT_EQ(WantedRows(choice, 16), (std::set<uint32_t>{5, 9}));
  EXPECT_EQ(choice.CountOf(5), 2u);
  EXPECT_EQ(choice.CountOf(9), HbmAdmission::kMaxSeed);
  EXPECT_EQ(choice.CountOf(6), 0u);
}

TEST(HbmAdmissionTest, NothingIsWantedThatTheLayerHasNot) {
  HbmAdmission choice(Sectors(4), 100);
  choice.Access(100);
  choice.Access(gpu_cache::kDeadPosition);
  choice.Seed(0xFFFFFFFEu, 255);
  EXPECT_EQ(choice.wanted_rows(), 0u);
}

TEST(HbmAdmissionTest, OfSeedsTheHighestCountsStay) {
  HbmAdmission choice(Sectors(1), kLayerRows);
  for (uint32_t id = 0; id < 100; ++id) choice.Seed(id, 1 + id * 2);
  const std::set<uint32_t> wanted = WantedRows(choice, 1);
  ASSERT_EQ(wanted.size(), kWays);
  // Seeds have sixteen steps, so neighbours may stand for each other.
  for (const uint32_t id : wanted) EXPECT_GE(id, 80u);
}

TEST(HbmAdmissionTest, ARowThatComesOftenTakesThePlaceOfOneThatDoesNot) {
  HbmAdmission choice(Sectors(1), kLayerRows);
  for (uint32_t id = 0; id < kWays; ++id) choice.Seed(id, 1);
  for (int i = 0; i < 50; ++i) choice.Access(500);
  EXPECT_GT(choice.CountOf(500), 1u);
  EXPECT_EQ(choice.wanted_rows(), kWays);
}

// A scan of as many rows that come once as there are accesses to rows that come again.
TEST(HbmAdmissionTest, RowsThatComeOnceStayOut) {
  std::mt19937_64 random(TestSeed());
  constexpr uint32_t kSectors = 100;
  HbmAdmission choice(Sectors(kSectors), kLayerRows);
  for (int i = 0; i < 20000; ++i) choice.Access(static_cast<uint32_t>(random() % 600));
  for (uint32_t id = 500000; id < 540000; ++id) {
    choice.Access(id);
    choice.Access(static_cast<uint32_t>(random() % 600));
  }
  const std::set<uint32_t> wanted = WantedRows(choice, kSectors);
  const auto scanned = std::distance(wanted.lower_bound(500000), wanted.end());
  const auto hot = static_cast<int64_t>(wanted.size()) - scanned;
  // Of 600 rows in 100 sectors of eight ways some 20 find more than seven others in theirs.
  EXPECT_GE(hot, 520);
  std::cout << hot << " of 600 hot rows are wanted, and " << scanned << " of the scan\n";
}

TEST(HbmAdmissionTest, ALayerThatFitsIsWantedWhole) {
  const RegionShape shape = gpu_cache::FitRegion(1 << 20, 64, 1003);
  ASSERT_TRUE(shape.direct);
  HbmAdmission choice(shape, 1003);
  EXPECT_EQ(choice.wanted_rows(), 1003u);
  EXPECT_EQ(choice.bytes(), 0u);
  uint32_t expected = 0;
  for (uint32_t sector = 0; sector < shape.sectors; ++sector) {
    for (const uint32_t tag : choice.Wanted(sector)) {
      EXPECT_EQ(tag, expected < 1003 ? gpu_cache::TagOf(expected) : kEmptyTag);
      ++expected;
    }
  }
  choice.Access(3);
  choice.Seed(4, 1);
}

// Under Zipf's law, beside the best static set of as many rows.
TEST(HbmAdmissionTest, ServesNearlyWhatTheBestSetDoes) {
  std::mt19937_64 random(TestSeed());
  constexpr uint32_t kRows = 200000;
  constexpr uint32_t kSectors = 1000;  // 8,000 rows
  for (const double alpha : {0.8, 1.0}) {
    std::vector<double> mass(kRows);
    double all = 0;
    for (uint32_t i = 0; i < kRows; ++i) mass[i] = 1 / std::pow(i + 1.0, alpha);
    for (const double m : mass) all += m;
    std::discrete_distribution<uint32_t> law(mass.begin(), mass.end());
    HbmAdmission choice(Sectors(kSectors), kRows);
    for (int i = 0; i < 3000000; ++i) choice.Access(law(random));
    double best = 0;
    for (uint32_t i = 0; i < kSectors * kWays; ++i) best += mass[i];
    double chosen = 0;
    for (const uint32_t row : WantedRows(choice, kSectors)) chosen += mass[row];
    std::cout << "alpha " << alpha << ": " << chosen / all << " of " << best / all << ", "
              << chosen / best << "\n";
    EXPECT_GT(chosen, best * 0.95);
  }
}

}  // namespace
}  // namespace engram
