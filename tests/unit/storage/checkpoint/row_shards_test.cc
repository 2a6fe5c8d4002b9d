#include "storage/checkpoint/row_shards.h"

#include <unistd.h>

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using testing_checkpoint::RowBytes;
using testing_checkpoint::TempDir;

constexpr uint64_t kValues = 24;
constexpr uint64_t kRowBytes = 26;

// Shards of these many rows, each in a file of values and scales that holds more behind them.
class RowShardsTest : public ::testing::Test {
 protected:
  RowShards Make(const std::vector<uint64_t>& sizes) {
    std::vector<RowShard> shards;
    uint64_t first = 0;
    for (const uint64_t rows : sizes) {
      const std::string values = RowBytes(9, first, rows, 0, kValues);
      const std::string scales = RowBytes(9, first, rows, kValues, kRowBytes);
      const std::string name = std::to_string(files_.size());
      auto file = FileReader::Open(dir_.Write(name, "##" + values + scales + "tail"));
      EXPECT_TRUE(file.ok()) << file.status();
      files_.push_back(*std::move(file));
      shards.push_back({rows,
                        {{files_.back().get(), 2, kValues, "v" + name},
                         {files_.back().get(), 2 + values.size(), kRowBytes - kValues, "s"}}});
      first += rows;
    }
    return RowShards(std::move(shards));
  }
  static std::string Read(const RowShards& shards, uint64_t first, uint64_t count) {
    std::string out(count * kRowBytes, '!');
    const absl::Status status =
        shards.Read(first, count, {reinterpret_cast<std::byte*>(out.data()), out.size()});
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  TempDir dir_;
  std::vector<std::unique_ptr<FileReader>> files_;
};

TEST_F(RowShardsTest, ReadsEveryRange) {
  const RowShards shards = Make({3, 0, 1, 5, 0, 2});
  EXPECT_EQ(shards.rows(), 11u);
  EXPECT_EQ(shards.row_bytes(), kRowBytes);
  for (uint64_t first = 0; first <= 11; ++first) {
    for (uint64_t count = 0; first + count <= 11; ++count) {
      EXPECT_EQ(Read(shards, first, count), RowBytes(9, first, count, 0, kRowBytes))
          << first << " " << count;
    }
  }
}

TEST_F(RowShardsTest, ReadsFromManyThreads) {
  const RowShards shards = Make({100, 200, 300});
  const std::string expected = RowBytes(9, 0, 600, 0, kRowBytes);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t first = thread; first + 250 <= 600; first += 7) {
        EXPECT_TRUE(Read(shards, first, 250) ==
                    expected.substr(first * kRowBytes, 250 * kRowBytes));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(RowShardsTest, NamesTheShardThatFails) {
  const RowShards shards = Make({3, 3, 3});
  ASSERT_EQ(::truncate(dir_.File("1").c_str(), 20), 0);
  std::vector<std::byte> out(9 * kRowBytes);
  const absl::Status status = shards.Read(0, 9, absl::MakeSpan(out));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), HasSubstr("'v1'"));
}

}  // namespace
}  // namespace engram
