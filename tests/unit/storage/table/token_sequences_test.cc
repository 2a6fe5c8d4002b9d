#include "storage/table/token_sequences.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using Numbers = std::vector<uint32_t>;

TEST(TokenSequences, CountsWhatIsNotContext) {
  EXPECT_EQ(TokenSequences{}.CountPositions().value(), 0u);
  EXPECT_EQ((TokenSequences{.ids = 5}).CountPositions().value(), 5u);
  const Numbers one = {4};
  EXPECT_EQ((TokenSequences{.ids = 5, .lookbacks = one}).CountPositions().value(), 1u);
  const Numbers lengths = {3, 0, 2};
  const Numbers lookbacks = {1, 0, 2};
  const TokenSequences several{.ids = 5, .lengths = lengths, .lookbacks = lookbacks};
  EXPECT_EQ(several.CountPositions().value(), 2u);
  EXPECT_EQ(several.count(), 3u);
  EXPECT_EQ(several.length(2), 2u);
  EXPECT_EQ(several.lookback(2), 2u);
}

TEST(TokenSequences, NamesWhatDoesNotFit) {
  const auto error = [](size_t ids, const Numbers& lengths, const Numbers& lookbacks) {
    const auto count =
        TokenSequences{.ids = ids, .lengths = lengths, .lookbacks = lookbacks}.CountPositions();
    EXPECT_EQ(count.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(count.status().message());
  };
  EXPECT_THAT(error(5, {4}, {}), HasSubstr("add up to 4, but there are 5"));
  EXPECT_THAT(error(3, {2, 0xFFFFFFFF, 0xFFFFFFFF}, {}), HasSubstr("add up to 8589934592"));
  EXPECT_THAT(error(5, {2, 1, 2}, {0}), HasSubstr("1 lookbacks for 3 sequences"));
  EXPECT_THAT(error(5, {}, {0, 0}), HasSubstr("2 lookbacks for 1 sequences"));
  EXPECT_THAT(error(5, {3, 2}, {0, 3}), HasSubstr("sequence 1 has a lookback of 3 in 2 ids"));
  EXPECT_THAT(error(1, Numbers(1026), {}), HasSubstr("1026 sequences of 1 ids"));
  EXPECT_THAT(error(1, Numbers(1025), {}), HasSubstr("add up to 0"));
}

}  // namespace
}  // namespace engram
