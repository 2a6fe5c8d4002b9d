#include "storage/nvme/page.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace engram {
namespace {

struct Case {
  uint32_t row_bytes;
  uint32_t rows_per_page;
  uint32_t block_bytes;
};

class PageGeometryTest : public testing::TestWithParam<Case> {};

TEST_P(PageGeometryTest, Chosen) {
  const Case& expected = GetParam();
  const PageGeometry geometry = ChoosePageGeometry(expected.row_bytes);
  EXPECT_EQ(geometry.row_bytes, expected.row_bytes);
  EXPECT_EQ(geometry.rows_per_page, expected.rows_per_page);
  EXPECT_EQ(geometry.block_bytes, expected.block_bytes);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, PageGeometryTest,
    testing::Values(Case{264, 15, 4096},     // 3,960 bytes: 3.3 % wasted
                    Case{160, 25, 4096},     // 4,000 bytes: 2.3 %
                    Case{320, 25, 8192},     // 4 KiB would hold 12 and waste 6.3 %
                    Case{512, 31, 16384},    // 3.1 %
                    Case{1024, 15, 16384},   // 6.3 %: the best of the three
                    Case{1, 4063, 4096},     // what a block holds beside its overhead
                    Case{4063, 1, 4096},     // just fits
                    Case{4064, 2, 8192},     // one byte more does not
                    Case{16351, 1, 16384},   // the largest that fits 16 KiB
                    Case{20000, 1, 20480},   // none of the three is as good as its own size
                    Case{20446, 1, 20480},   // which it fills to the last byte
                    Case{65536, 1, 69632}),  // larger than all three
    [](const testing::TestParamInfo<Case>& info) {
      return "Row" + std::to_string(info.param.row_bytes);
    });

TEST(PageGeometryTest, EveryRowSizeFitsItsBlock) {
  for (uint32_t row_bytes = 1; row_bytes <= 65536; ++row_bytes) {
    const PageGeometry geometry = ChoosePageGeometry(row_bytes);
    const uint32_t value = geometry.rows_per_page * row_bytes;
    ASSERT_GT(geometry.rows_per_page, 0u) << row_bytes;
    ASSERT_LE(value + BlockOverhead(value), geometry.block_bytes) << row_bytes;
    ASSERT_EQ(geometry.block_bytes % kPageAlignment, 0u) << row_bytes;
    // Nor would one row more fit.
    ASSERT_GT(value + row_bytes + BlockOverhead(value + row_bytes), geometry.block_bytes)
        << row_bytes;
    // Two pages never share a 4 KiB block, so each page is one read.
    ASSERT_GT(value + row_bytes + BlockOverhead(value), kPageAlignment) << row_bytes;
  }
}

TEST(PageGeometryTest, LastPageIsShort) {
  const PageGeometry geometry = ChoosePageGeometry(264);
  EXPECT_EQ(geometry.Pages(1), 1u);
  EXPECT_EQ(geometry.Pages(15), 1u);
  EXPECT_EQ(geometry.Pages(16), 2u);
  EXPECT_EQ(geometry.ValueBytes(PageId{0}, 16), 15u * 264);
  EXPECT_EQ(geometry.ValueBytes(PageId{1}, 16), 264u);
  EXPECT_EQ(geometry.ValueBytes(PageId{2}, 16), 0u);
  EXPECT_EQ(geometry.PageOf(RowId{14}), PageId{0});
  EXPECT_EQ(geometry.PageOf(RowId{15}), PageId{1});
}

TEST(PageKeyTest, SortsAsPagesDo) {
  const uint64_t pages[] = {0,     1,     255,           256,
                            65535, 65536, 4294967296ull, std::numeric_limits<uint64_t>::max()};
  std::string previous;
  for (const uint64_t page : pages) {
    const PageKey key = EncodePageKey(PageId{page});
    EXPECT_EQ(DecodePageKey(key), PageId{page});
    const std::string text(key.data(), key.size());
    EXPECT_LT(previous, text);
    previous = text;
  }
}

}  // namespace
}  // namespace engram
