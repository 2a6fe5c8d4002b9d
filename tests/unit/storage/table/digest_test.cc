#include "storage/table/digest.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace engram {
namespace {

std::string Of(absl::string_view text) {
  Digest digest;
  digest.Update(text);
  return digest.Hex();
}

TEST(Digest, IsXxh3Of128Bits) {
  // The empty input's value as published with xxHash (XXH3_128bits, seed 0).
  EXPECT_EQ(Digest().Hex(), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Of(""), Digest().Hex());
}

TEST(Digest, DoesNotDependOnHowTheBytesAreCut) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text.push_back(static_cast<char>(i * 7 >> 3));
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{255}, size_t{4096}, text.size()}) {
    Digest digest;
    digest.Update(absl::string_view(text).substr(0, cut));
    digest.Update(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()) + cut,
                                      text.size() - cut));
    EXPECT_EQ(digest.Hex(), Of(text)) << cut;
  }
}

TEST(Digest, GoesOnAfterHex) {
  Digest digest;
  digest.Update("ab");
  EXPECT_EQ(digest.Hex(), Of("ab"));
  EXPECT_EQ(digest.Hex(), Of("ab"));
  digest.Update("c");
  EXPECT_EQ(digest.Hex(), Of("abc"));
}

TEST(Digest, FindsEveryFlippedBitOfARow) {
  std::string row(264, '\0');
  std::set<std::string> seen = {Of(row)};
  for (size_t bit = 0; bit < row.size() * 8; ++bit) {
    row[bit / 8] = static_cast<char>(row[bit / 8] ^ (1 << bit % 8));
    EXPECT_TRUE(seen.insert(Of(row)).second) << bit;
    row[bit / 8] = static_cast<char>(row[bit / 8] ^ (1 << bit % 8));
  }
  EXPECT_NE(Of("ab"), Of("ba"));
  EXPECT_NE(Of(std::string(1, '\0')), Of(""));
}

}  // namespace
}  // namespace engram
