#include "storage/checkpoint/row_parts.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing_checkpoint::RowBytes;
using testing_checkpoint::TempDir;

// A file of `offset` other bytes, then `rows` rows of columns from … to.
std::unique_ptr<FileReader> WritePart(const TempDir& dir, const std::string& name, uint64_t offset,
                                      uint64_t rows, uint64_t from, uint64_t to) {
  auto reader = FileReader::Open(
      dir.Write(name, std::string(offset, '#') + RowBytes(3, 0, rows, from, to) + "tail"));
  EXPECT_TRUE(reader.ok()) << reader.status();
  return *std::move(reader);
}

std::string ReadRows(const RowParts& parts, uint64_t first, uint64_t count) {
  std::string out(count * parts.row_bytes() + 1, '!');
  const absl::Status status = parts.Read(
      first, count,
      {reinterpret_cast<std::byte*>(out.data()), static_cast<size_t>(count * parts.row_bytes())});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(out.back(), '!') << "written past the end";
  out.pop_back();
  return out;
}

TEST(RowParts, LaysPartsSideBySide) {
  // The sizes with copies of their own, sizes without, and a lone part; offsets of every kind.
  const std::vector<std::vector<uint64_t>> shapes = {{256, 8}, {64, 2}, {320}, {1, 5, 2}, {8, 256}};
  constexpr uint64_t kRows = 123;
  for (const std::vector<uint64_t>& shape : shapes) {
    TempDir dir;
    std::vector<std::unique_ptr<FileReader>> files;
    std::vector<RowPart> parts;
    uint64_t column = 0;
    for (const uint64_t bytes : shape) {
      const uint64_t offset = 4093 * files.size() + 7;
      files.push_back(
          WritePart(dir, std::to_string(files.size()), offset, kRows, column, column + bytes));
      parts.push_back({files.back().get(), offset, static_cast<uint32_t>(bytes), "t"});
      column += bytes;
    }
    const RowParts rows(std::move(parts));
    ASSERT_EQ(rows.row_bytes(), column);
    EXPECT_EQ(ReadRows(rows, 0, kRows), RowBytes(3, 0, kRows, 0, column));
    EXPECT_EQ(ReadRows(rows, kRows - 1, 1), RowBytes(3, kRows - 1, 1, 0, column));
    EXPECT_EQ(ReadRows(rows, 17, 20), RowBytes(3, 17, 20, 0, column));
    EXPECT_EQ(ReadRows(rows, kRows, 0), "");
  }
}

TEST(RowParts, ReadsMoreThanOneBlockAtOnce) {
  TempDir dir;
  constexpr uint64_t kRows = 300;
  constexpr uint64_t kWide = 60'000;  // 18 MB in all: three blocks
  const auto values = WritePart(dir, "v", 100, kRows, 0, kWide);
  const auto scales = WritePart(dir, "s", 1, kRows, kWide, kWide + 3);
  const RowParts rows({{values.get(), 100, kWide, "v"}, {scales.get(), 1, 3, "s"}});
  EXPECT_TRUE(ReadRows(rows, 0, kRows) == RowBytes(3, 0, kRows, 0, kWide + 3));
}

TEST(RowParts, ReadsFromManyThreads) {
  TempDir dir;
  constexpr uint64_t kRows = 5000;
  const auto values = WritePart(dir, "v", 13, kRows, 0, 256);
  const auto scales = WritePart(dir, "s", 0, kRows, 256, 264);
  const RowParts rows({{values.get(), 13, 256, "v"}, {scales.get(), 0, 8, "s"}});
  const std::string expected = RowBytes(3, 0, kRows, 0, 264);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t first = thread * 97; first + 400 <= kRows; first += 331) {
        EXPECT_TRUE(ReadRows(rows, first, 400) == expected.substr(first * 264, 400 * 264));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ScratchPool, HandsOutWhatWasReturned) {
  ScratchPool pool;
  std::unique_ptr<ScratchPool::Scratch> first = pool.Take(1);
  std::unique_ptr<ScratchPool::Scratch> second = pool.Take(2);
  ASSERT_NE(first, second);
  ASSERT_EQ(second->size(), 2u);
  const std::byte* const memory = (*second)[1].Reserve(100);
  pool.Return(std::move(second));
  second = pool.Take(3);
  EXPECT_EQ(second->size(), 3u);
  EXPECT_EQ((*second)[1].Reserve(100), memory);
  pool.Return(std::move(second));
  pool.Return(std::move(first));
}

TEST(RowParts, NamesTensorAndFileOfAFailure) {
  TempDir dir;
  const auto values = WritePart(dir, "v", 0, 1000, 0, 256);
  const auto scales = WritePart(dir, "s", 0, 1000, 256, 264);
  const RowParts rows({{values.get(), 0, 256, "the.weight"}, {scales.get(), 0, 8, "the.scale"}});
  ASSERT_EQ(::truncate(scales->path().c_str(), 4000), 0);
  std::vector<std::byte> out(264 * 10);
  EXPECT_TRUE(rows.Read(0, 10, absl::MakeSpan(out)).ok());
  const absl::Status status = rows.Read(800, 10, absl::MakeSpan(out));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr(scales->path()), HasSubstr("'the.scale'"),
                                      HasSubstr("rows 800 to 809")));
}

// Each of three blocks fails in turn, those behind it could be read.
TEST(RowParts, AnErrorEndsAReadOfManyBlocks) {
  TempDir dir;
  constexpr uint64_t kRows = 300;
  constexpr uint64_t kWide = 60'000;
  const std::string path = dir.Write("v", RowBytes(3, 0, kRows, 0, kWide));
  std::vector<std::byte> out(kRows * kWide);
  constexpr uint64_t kBlockRows = 8 * 1024 * 1024 / kWide;
  for (uint64_t first = 0; first < kRows; first += kBlockRows) {
    const uint64_t last = std::min(first + kBlockRows, kRows) - 1;
    const auto bad_sector = static_cast<off_t>((first + last) / 2 * kWide);
    FileReader::Options options;
    options.pread = [&](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
      if (offset <= bad_sector && bad_sector < offset + static_cast<off_t>(bytes)) {
        errno = EIO;
        return -1;
      }
      return ::pread(fd, data, bytes, offset);
    };
    auto file = FileReader::Open(path, options);
    ASSERT_TRUE(file.ok()) << file.status();
    const RowParts rows({{file->get(), 0, kWide, "the.weight"}});
    const absl::Status status = rows.Read(0, kRows, absl::MakeSpan(out));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(status.message(),
                HasSubstr("rows " + std::to_string(first) + " to " + std::to_string(last)));
  }
}

}  // namespace
}  // namespace engram
