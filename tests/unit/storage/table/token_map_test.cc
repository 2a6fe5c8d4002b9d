#include "storage/table/token_map.h"

#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TokenMap MustCreate(std::vector<int32_t> compressed) {
  auto map = TokenMap::Create(std::move(compressed));
  EXPECT_TRUE(map.ok()) << map.status();
  return *std::move(map);
}

void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(status.message(), HasSubstr(text));
}

std::string LittleEndian(const std::vector<int32_t>& values) {
  std::string bytes;
  for (const int32_t value : values) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<char>(static_cast<uint32_t>(value) >> shift));
    }
  }
  return bytes;
}

TEST(TokenMap, CountsAndKeepsWhatItWasGiven) {
  const TokenMap map = MustCreate({0, 1, 1, 2, 0});
  EXPECT_EQ(map.size(), 5u);
  EXPECT_EQ(map.compressed_size(), 3u);
  EXPECT_THAT(map.compressed(), ElementsAre(0, 1, 1, 2, 0));
  EXPECT_EQ(map.bytes(), LittleEndian({0, 1, 1, 2, 0}));
}

TEST(TokenMap, CopiesShareOneArray) {
  const TokenMap map = MustCreate({0, 1});
  const TokenMap copy = map;
  EXPECT_EQ(copy.compressed().data(), map.compressed().data());
}

// The digests are sha256sum's, of the bytes written by hand.
TEST(TokenMap, DigestIsSha256OfTheBytes) {
  EXPECT_EQ(MustCreate({0}).digest(),
            "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119");
  EXPECT_EQ(MustCreate({0, 1, 1, 2, 0}).digest(),
            "b38cfa86ea01868ec30bcc2f18607d217cbae16da625f3b9467bb7588d85c0b9");
}

TEST(TokenMap, RefusesWhatDoesNotCountUp) {
  const auto refuse = [](std::vector<int32_t> compressed, const std::string& text) {
    ExpectStatus(TokenMap::Create(std::move(compressed)).status(),
                 absl::StatusCode::kInvalidArgument, text);
  };
  refuse({}, "has 0");
  refuse({1}, "token id 0 is mapped to 1");
  refuse({-1}, "token id 0 is mapped to -1");
  refuse({0, 1, 3, 2}, "token id 2 is mapped to 3");
  refuse({0, 1, -2}, "token id 2 is mapped to -2");
  refuse({0, 0, std::numeric_limits<int32_t>::max()}, "mapped to 2147483647");
  refuse({0, 0, 2}, "from 0 to 1");
}

TEST(TokenMap, HoldsUpToKMaxTokens) {
  std::vector<int32_t> all(kMaxTokens);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(MustCreate(all).compressed_size(), kMaxTokens);
  all.push_back(0);
  ExpectStatus(TokenMap::Create(all).status(), absl::StatusCode::kInvalidArgument, "has 16777217");
  ExpectStatus(TokenMap::Parse(LittleEndian(all), "").status(), absl::StatusCode::kDataLoss,
               "67108868 bytes");
}

TEST(TokenMap, ParsesItsOwnBytes) {
  const TokenMap map = MustCreate({0, 1, 0, 2});
  // At an odd address, as they may lie in a message.
  const std::string shifted = "x" + std::string(map.bytes());
  const auto again = TokenMap::Parse(absl::string_view(shifted).substr(1), map.digest());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->compressed(), map.compressed());
  EXPECT_EQ(again->compressed_size(), 3u);
  EXPECT_EQ(again->digest(), map.digest());
}

TEST(TokenMap, FindsDamage) {
  const TokenMap map = MustCreate({0, 1, 0, 2});
  const std::string bytes(map.bytes());
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    ExpectStatus(TokenMap::Parse(damaged, map.digest()).status(), absl::StatusCode::kDataLoss,
                 map.digest());
  }
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(TokenMap::Parse(bytes.substr(0, length), map.digest()).status().code(),
              absl::StatusCode::kDataLoss)
        << length;
  }
  ExpectStatus(TokenMap::Parse(bytes.substr(1), map.digest()).status(), absl::StatusCode::kDataLoss,
               "15 bytes");
  ExpectStatus(TokenMap::Parse(bytes, "").status(), absl::StatusCode::kDataLoss, map.digest());
}

TEST(TokenMap, BytesThatAreNoMapAreDataLossEvenWithTheirDigest) {
  ExpectStatus(
      TokenMap::Parse("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
          .status(),
      absl::StatusCode::kDataLoss, "has 0");
  ExpectStatus(TokenMap::Parse(LittleEndian({1}),
                               "67abdd721024f0ff4e0b3f4c2fc13bc5bad42d0b7851d456d88d203d15aaa450")
                   .status(),
               absl::StatusCode::kDataLoss, "token id 0 is mapped to 1");
}

TEST(TokenMap, Compresses) {
  const TokenMap map = MustCreate({0, 1, 0, 2});
  const std::vector<int32_t> raw = {3, -1, 0, 1, 2, 3, -1};
  std::vector<int32_t> out(raw.size(), 77);
  ASSERT_TRUE(map.Compress(raw, absl::MakeSpan(out)).ok());
  EXPECT_THAT(out, ElementsAre(2, -1, 0, 1, 0, 2, -1));
  std::vector<int32_t> in_place = raw;
  ASSERT_TRUE(map.Compress(in_place, absl::MakeSpan(in_place)).ok());
  EXPECT_EQ(in_place, out);
  EXPECT_TRUE(map.Compress({}, {}).ok());
}

TEST(TokenMap, CompressNamesTheIdItDoesNotHave) {
  const TokenMap map = MustCreate({0, 1, 0, 2});
  for (const int32_t id :
       {4, -2, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    std::vector<int32_t> ids = {3, -1, id};
    const absl::Status status = map.Compress(ids, absl::MakeSpan(ids));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("token id " + std::to_string(id) + " at index 2"),
                                        HasSubstr("0 to 3")));
  }
}

}  // namespace
}  // namespace engram
