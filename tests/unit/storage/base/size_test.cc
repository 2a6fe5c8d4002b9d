#include "storage/base/size.h"

#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

TEST(ParseSize, ReadsNumbersWithUnits) {
  const std::vector<std::pair<const char*, uint64_t>> cases = {
      {"0", 0},
      {"0B", 0},
      {"0GiB", 0},
      {"264B", 264},
      {"64KiB", 64 << 10},
      {"3MiB", 3 << 20},
      {"1.5GiB", 1536ull << 20},
      {"4 GiB", 4ull << 30},
      {" 2TiB ", 2ull << 40},
      {"7TiB", 7ull << 40},
      {".5KiB", 512},
  };
  for (const auto& [text, bytes] : cases) {
    const auto size = ParseSize(text);
    ASSERT_TRUE(size.ok()) << size.status();
    EXPECT_EQ(*size, bytes) << text;
  }
}

TEST(ParseSize, RefusesAnythingElse) {
  for (const char* text :
       {"",       " ",     "B",     "GiB",  "5",    "1.5",        "-1B",
        "-1GiB",  "+1B",   "4GB",   "4gib", "4G",   "1e3B",       "1.2.3B",
        "4GiB x", "4GiBB", "0x10B", "nan",  "infB", "9000000TiB", "99999999999999999999999B",
        "1,5GiB"}) {
    const auto size = ParseSize(text);
    EXPECT_EQ(size.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(size.status().message(), HasSubstr(std::string("'") + text + "'"));
  }
}

TEST(FormatSize, IsExactOrHasTwoDecimals) {
  EXPECT_EQ(FormatSize(0), "0B");
  EXPECT_EQ(FormatSize(1023), "1023B");
  EXPECT_EQ(FormatSize(1024), "1KiB");
  EXPECT_EQ(FormatSize(1025), "1.00KiB");
  EXPECT_EQ(FormatSize(1536), "1.50KiB");
  EXPECT_EQ(FormatSize(4ull << 30), "4GiB");
  EXPECT_EQ(FormatSize(202'758'032'400), "188.83GiB");
  EXPECT_EQ(FormatSize(5ull << 50), "5120TiB");
}

TEST(FormatSize, IsReadBackWhereItIsExact) {
  for (int shift = 0; shift < 62; ++shift) {
    const auto read = ParseSize(FormatSize(uint64_t{1} << shift));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, uint64_t{1} << shift);
  }
}

}  // namespace
}  // namespace engram
