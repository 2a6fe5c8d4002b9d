#include "storage/nvme/page_block.h"

#include <gtest/gtest.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "storage/nvme/page.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

constexpr uint64_t kFirst = 4711;

std::string ValueOf(uint64_t page, uint32_t bytes) {
  std::string value(bytes, '\0');
  FillRow(TestSeed(), LayerId{1}, page, bytes, reinterpret_cast<std::byte*>(value.data()));
  return value;
}

absl::Span<const std::byte> Bytes(const std::string& text) {
  return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size());
}

// What RocksDB itself writes for pages of one size: the blocks, one behind the other.
std::vector<std::string> BlocksOf(uint32_t value_bytes, uint64_t pages) {
  const TestDirectory directory;
  rocksdb::BlockBasedTableOptions table;
  table.block_size = kPageAlignment;
  table.block_align = true;
  table.checksum = rocksdb::kXXH3;
  table.format_version = 5;
  rocksdb::Options options;
  options.compression = rocksdb::kNoCompression;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), options);
  EXPECT_TRUE(writer.Open(directory / "x.sst").ok());
  for (uint64_t page = kFirst; page < kFirst + pages; ++page) {
    const PageKey key = EncodePageKey(PageId{page});
    EXPECT_TRUE(
        writer.Put(rocksdb::Slice(key.data(), key.size()), ValueOf(page, value_bytes)).ok());
  }
  EXPECT_TRUE(writer.Finish().ok());
  std::ifstream file(directory / "x.sst", std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  std::vector<std::string> blocks;
  for (uint64_t i = 0; i < pages; ++i) {
    blocks.push_back(content.substr(i * BlockBytes(value_bytes), BlockBytes(value_bytes)));
  }
  return blocks;
}

class PageBlockTest : public testing::TestWithParam<uint32_t> {};

TEST_P(PageBlockTest, ReadsWhatRocksDbWrites) {
  // Values so small that several share a block are the last ones of a layer, and alone in theirs.
  const std::vector<std::string> blocks = BlocksOf(GetParam(), GetParam() < 2000 ? 1 : 3);
  for (uint64_t i = 0; i < blocks.size(); ++i) {
    const PageBlock read = ReadPageBlock(PageId{kFirst + i}, GetParam(), Bytes(blocks[i]));
    ASSERT_EQ(read.state, PageBlockState::kGood) << i;
    const std::string value(reinterpret_cast<const char*>(read.value.data()), read.value.size());
    EXPECT_EQ(value, ValueOf(kFirst + i, GetParam()));
  }
}

TEST_P(PageBlockTest, TakesNoOtherPageAndNoOtherSize) {
  const std::string block = BlocksOf(GetParam(), 1).front();
  EXPECT_EQ(ReadPageBlock(PageId{kFirst + 1}, GetParam(), Bytes(block)).state,
            PageBlockState::kOtherContent);
  EXPECT_NE(ReadPageBlock(PageId{kFirst}, GetParam() - 1, Bytes(block)).state,
            PageBlockState::kGood);
  EXPECT_NE(ReadPageBlock(PageId{kFirst}, GetParam() + 1, Bytes(block)).state,
            PageBlockState::kGood);
}

TEST_P(PageBlockTest, TakesNoBlockThatEndsEarly) {
  const std::string block = BlocksOf(GetParam(), 1).front();
  const size_t content = GetParam() + BlockOverhead(GetParam());
  EXPECT_EQ(ReadPageBlock(PageId{kFirst}, GetParam(), Bytes(block).first(content)).state,
            PageBlockState::kGood);
  for (const size_t bytes : {content - 1, content / 2, size_t{1}, size_t{0}}) {
    const PageBlock read = ReadPageBlock(PageId{kFirst}, GetParam(), Bytes(block).first(bytes));
    EXPECT_EQ(read.state, PageBlockState::kShort) << bytes;
    EXPECT_TRUE(read.value.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, PageBlockTest,
                         testing::Values(1u, 127u, 128u, 3960u, 4000u, 4063u, 16383u, 16384u,
                                         65536u));

TEST(PageBlockDamageTest, EveryFlippedBitIsFound) {
  const uint32_t value_bytes = 3960;
  const std::string good = BlocksOf(value_bytes, 1).front();
  const size_t content = value_bytes + BlockOverhead(value_bytes);
  for (size_t bit = 0; bit < content * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_NE(ReadPageBlock(PageId{kFirst}, value_bytes, Bytes(bad)).state, PageBlockState::kGood)
        << "bit " << bit;
  }
  // What pads the block is nobody's.
  std::string padded = good;
  padded.back() = 'x';
  EXPECT_EQ(ReadPageBlock(PageId{kFirst}, value_bytes, Bytes(padded)).state, PageBlockState::kGood);
}

TEST(PageBlockDamageTest, GarbageIsNoPage) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 2000; ++round) {
    std::string garbage(random() % 5000, '\0');
    for (char& byte : garbage) byte = static_cast<char>(random());
    const auto value_bytes = static_cast<uint32_t>(1 + random() % 5000);
    EXPECT_NE(ReadPageBlock(PageId{random()}, value_bytes, Bytes(garbage)).state,
              PageBlockState::kGood);
  }
}

}  // namespace
}  // namespace engram
