#include "storage/table/addressing.h"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

AddressingSpec Addressing(int32_t max_ngram_size, int32_t heads, uint64_t base_size) {
  AddressingSpec spec;
  spec.max_ngram_size = max_ngram_size;
  spec.heads = heads;
  spec.base_size = base_size;
  return spec;
}

uint64_t Sum(const std::vector<ColumnSpec>& columns) {
  uint64_t sum = 0;
  for (const ColumnSpec& column : columns) sum += column.rows;
  return sum;
}

TEST(IsPrime, AgreesWithASieve) {
  constexpr size_t kLimit = 200'000;
  std::vector<bool> composite(kLimit, false);
  for (size_t n = 2; n < kLimit; ++n) {
    if (composite[n]) continue;
    for (size_t multiple = n * n; multiple < kLimit; multiple += n) composite[multiple] = true;
  }
  for (size_t n = 0; n < kLimit; ++n) {
    ASSERT_EQ(IsPrime(n), n >= 2 && !composite[n]) << n;
  }
}

TEST(IsPrime, AgreesWithTrialDivisionAroundTheReleasedSizes) {
  for (uint64_t n = 15'999'900; n < 16'001'000; ++n) {
    bool prime = true;
    for (uint64_t d = 2; prime && d * d <= n; ++d) prime = n % d != 0;
    ASSERT_EQ(IsPrime(n), prime) << n;
  }
}

TEST(IsPrime, IsNotFooledBySpecialNumbers) {
  // Carmichael numbers, and strong pseudoprimes to the bases 2, 2-3, 2-5, 2-7, … (OEIS A014233).
  for (const uint64_t n :
       {561ull, 41041ull, 825265ull, 321197185ull, 2047ull, 1373653ull, 25326001ull, 3215031751ull,
        2152302898747ull, 3474749660383ull, 341550071728321ull, 3825123056546413051ull}) {
    EXPECT_FALSE(IsPrime(n)) << n;
  }
  EXPECT_TRUE(IsPrime(4294967291));               // 2^32 − 5
  EXPECT_TRUE(IsPrime(2305843009213693951));      // 2^61 − 1
  EXPECT_TRUE(IsPrime(18446744073709551557ull));  // 2^64 − 59, the largest below 2^64
  EXPECT_FALSE(IsPrime(18446744073709551615ull));
  EXPECT_FALSE(IsPrime(4294967291ull * 4294967279ull));
}

TEST(PrimeColumns, GivesTheReleasedModelsSizes) {
  const auto layers = PrimeColumns(Addressing(4, 8, 16'000'000), 2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  ASSERT_EQ(layers->size(), 2u);
  const std::vector<ColumnSpec>& first = (*layers)[0];
  const std::vector<ColumnSpec>& second = (*layers)[1];
  ASSERT_EQ(first.size(), 24u);
  ASSERT_EQ(second.size(), 24u);
  EXPECT_EQ(Sum(first), 384006168u);
  EXPECT_EQ(Sum(second), 384016682u);
  EXPECT_EQ(first.front().rows, 16000057u);
  EXPECT_EQ(first.back().rows, 16000463u);
  EXPECT_EQ(second.front().rows, 16000477u);
  EXPECT_EQ(second.back().rows, 16000889u);
}

TEST(PrimeColumns, UsesEachPrimeOnceInLayerOrderHeadOrder) {
  const auto layers = PrimeColumns(Addressing(3, 2, 2), 2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ((*layers)[0], (std::vector<ColumnSpec>{{2, 0, 2}, {2, 1, 3}, {3, 0, 5}, {3, 1, 7}}));
  EXPECT_EQ((*layers)[1],
            (std::vector<ColumnSpec>{{2, 0, 11}, {2, 1, 13}, {3, 0, 17}, {3, 1, 19}}));
}

TEST(PrimeColumns, NamesTheValueOutOfBounds) {
  const std::vector<std::pair<absl::Status, std::string>> cases = {
      {PrimeColumns(Addressing(1, 8, 1000), 1).status(), "max_ngram_size is 1"},
      {PrimeColumns(Addressing(17, 8, 1000), 1).status(), "max_ngram_size is 17"},
      {PrimeColumns(Addressing(-4, 8, 1000), 1).status(), "max_ngram_size is"},
      {PrimeColumns(Addressing(4, 0, 1000), 1).status(), "heads is 0"},
      {PrimeColumns(Addressing(4, 257, 1000), 1).status(), "heads is 257"},
      {PrimeColumns(Addressing(4, 8, 1), 1).status(), "base size is 1"},
      {PrimeColumns(Addressing(4, 8, kMaxLayerRows + 1), 1).status(), "base size is 4294967296"},
      {PrimeColumns(Addressing(4, 8, 1000), 0).status(), "layer count is 0"},
      {PrimeColumns(Addressing(4, 8, 1000), kMaxLayers + 1).status(), "layer count is 1025"},
  };
  for (const auto& [status, text] : cases) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(text));
  }
  EXPECT_TRUE(PrimeColumns(Addressing(2, 1, kMaxLayerRows), 1).ok());
}

std::vector<uint64_t> Sizes(const std::vector<ColumnSpec>& columns) {
  std::vector<uint64_t> sizes;
  for (const ColumnSpec& column : columns) sizes.push_back(column.rows);
  return sizes;
}

TEST(PrimeColumnsByOrder, GivesTheDemosTables) {
  const auto layers = PrimeColumnsByOrder({646400, 646400}, 8, 2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ(Sum((*layers)[0]), 10'344'164);
  EXPECT_EQ(Sum((*layers)[1]), 10'348'242);
}

// By the letter: every (layer, order) starts again at its size and skips what is taken.
TEST(PrimeColumnsByOrder, SkipsPrimesThatAnotherOrderTook) {
  const auto layers = PrimeColumnsByOrder({10, 12, 3}, 3, 2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_THAT(Sizes((*layers)[0]), ElementsAre(11, 13, 17, 19, 23, 29, 3, 5, 7));
  EXPECT_THAT(Sizes((*layers)[1]), ElementsAre(31, 37, 41, 43, 47, 53, 59, 61, 67));
}

TEST(PrimeColumnsByOrder, NamesWhatIsOutOfBounds) {
  EXPECT_THAT(PrimeColumnsByOrder({}, 8, 1).status().message(), HasSubstr("max_ngram_size is 1"));
  EXPECT_THAT(PrimeColumnsByOrder({1}, 8, 1).status().message(), HasSubstr("base size is 1"));
  EXPECT_THAT(PrimeColumnsByOrder({100}, 0, 1).status().message(), HasSubstr("heads is 0"));
  EXPECT_THAT(PrimeColumnsByOrder({100}, 256, 17).status().message(),
              HasSubstr("column count is 4352, not between 1 and 4096"));
}

TEST(RatioColumns, GivesTheReleasedTables) {
  const auto lite = RatioColumns(78, 131072, 4, 4);
  ASSERT_TRUE(lite.ok()) << lite.status();
  ASSERT_EQ(lite->size(), 12);
  for (size_t i = 0; i < 12; ++i) EXPECT_EQ((*lite)[i].rows, 10'223'617 + 2 * i);
  const auto two = RatioColumns(100.567, 163840, 5, 4);
  ASSERT_TRUE(two.ok()) << two.status();
  ASSERT_EQ(two->size(), 16);
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ((*two)[i].rows, 16'476'898 + 2 * i);
}

TEST(RatioColumns, NamesWhatIsOutOfBounds) {
  EXPECT_THAT(RatioColumns(-1, 100, 2, 1).status().message(), HasSubstr("-99 rows"));
  EXPECT_THAT(RatioColumns(1e300, 100, 2, 1).status().message(), HasSubstr("e+302 rows"));
  EXPECT_FALSE(RatioColumns(std::nan(""), 100, 2, 1).ok());
  EXPECT_THAT(RatioColumns(1, 0, 2, 1).status().message(), HasSubstr("vocabulary is 0"));
}

TEST(Multipliers, AreThoseOfTheReleasedModels) {
  EXPECT_THAT(*NumpyMultipliers(10007, 99092, 4),
              ElementsAre(76632096046245, 4839876093313, 35959672319349, 73987337458391));
  EXPECT_THAT(*NumpyMultipliers(14 * 10007, 99092, 4),
              ElementsAre(67716810739261, 51510806800915, 30921347202721, 82619226485591));
  EXPECT_THAT(*NumpyMultipliers(10007, 98627, 3),
              ElementsAre(76993395940407, 4862694818241, 36129212583461));
  EXPECT_THAT(*NumpyMultipliers(15 * 10007, 98627, 3),
              ElementsAre(29055444938695, 56284491166079, 54183298291715));
  EXPECT_THAT(*SplitMixMultipliers(1234, 0, 248320, 3),
              ElementsAre(23703573157769, 20109073645365, 8052911324071));
}

TEST(Multipliers, NameWhatIsOutOfBounds) {
  EXPECT_THAT(NumpyMultipliers(1, 0, 3).status().message(), HasSubstr("vocabulary is 0"));
  EXPECT_THAT(NumpyMultipliers(1, -5, 3).status().message(), HasSubstr("vocabulary is -5"));
  EXPECT_THAT(SplitMixMultipliers(1, 0, int64_t{1} << 31, 3).status().message(),
              HasSubstr("vocabulary is 2147483648"));
  EXPECT_THAT(SplitMixMultipliers(1, 0, 100, 17).status().message(), HasSubstr("count is 17"));
}

}  // namespace
}  // namespace engram
