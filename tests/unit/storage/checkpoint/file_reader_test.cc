#include "storage/checkpoint/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/checkpoint/checkpoint_writer.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using testing_checkpoint::RowBytes;
using testing_checkpoint::TempDir;

std::string AsString(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::unique_ptr<FileReader> MustOpen(const std::string& path, FileReader::Options options = {}) {
  auto reader = FileReader::Open(path, std::move(options));
  EXPECT_TRUE(reader.ok()) << reader.status();
  return reader.ok() ? *std::move(reader) : nullptr;
}

bool IsDirect(int fd) { return (::fcntl(fd, F_GETFL) & O_DIRECT) != 0; }

// Reads random ranges and compares each with `contents`.
void ExpectRandomReads(const FileReader& reader, const std::string& contents, uint64_t seed,
                       int reads) {
  std::mt19937_64 random(seed);
  AlignedBuffer buffer;
  for (int i = 0; i < reads; ++i) {
    const uint64_t offset = random() % (contents.size() + 1);
    const uint64_t length = random() % (std::min<uint64_t>(contents.size() - offset, 20'000) + 1);
    const auto bytes = reader.Read(offset, length, buffer);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    ASSERT_EQ(AsString(*bytes), contents.substr(offset, length)) << offset << "+" << length;
  }
}

class FileReaderTest : public ::testing::TestWithParam<bool> {
 protected:
  FileReader::Options Options() const {
    FileReader::Options options;
    options.direct = GetParam();
    return options;
  }

  TempDir dir_;
  const std::string contents_ = RowBytes(1, 0, 401, 0, 257);  // 103,057 bytes: no multiple of 4096
};

INSTANTIATE_TEST_SUITE_P(Path, FileReaderTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Direct" : "Buffered"; });

TEST_P(FileReaderTest, ReadsAnyRange) {
  const auto reader = MustOpen(dir_.Write("f", contents_), Options());
  EXPECT_EQ(reader->bytes(), contents_.size());
  if (!GetParam()) {
    EXPECT_FALSE(reader->direct());
  }
  ExpectRandomReads(*reader, contents_, TestSeed(), 300);
  AlignedBuffer buffer;
  const auto all = reader->Read(0, contents_.size(), buffer);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(AsString(*all), contents_);
  const auto none = reader->Read(contents_.size(), 0, buffer);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->empty());
}

TEST_P(FileReaderTest, ReadsFromManyThreads) {
  const auto reader = MustOpen(dir_.Write("f", contents_), Options());
  const uint64_t seed = TestSeed();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { ExpectRandomReads(*reader, contents_, seed + i, 100); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(FileReaderTest, RefusesRangesPastTheEnd) {
  const auto reader = MustOpen(dir_.Write("f", contents_), Options());
  AlignedBuffer buffer;
  for (const auto& [offset, length] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, contents_.size() + 1}, {contents_.size(), 1}, {~0ull, 2}, {2, ~0ull}}) {
    const auto bytes = reader->Read(offset, length, buffer);
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kOutOfRange) << bytes.status();
    EXPECT_THAT(bytes.status().message(), HasSubstr(reader->path()));
  }
}

TEST_P(FileReaderTest, ReportsAFileCutShort) {
  const auto reader = MustOpen(dir_.Write("f", contents_), Options());
  for (const off_t length : {off_t{50'000}, off_t{49'152}, off_t{0}}) {
    ASSERT_EQ(::truncate(reader->path().c_str(), length), 0);
    AlignedBuffer buffer;
    const auto bytes = reader->Read(40'000, 20'000, buffer);
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kDataLoss) << bytes.status();
    EXPECT_THAT(bytes.status().message(), HasSubstr(reader->path()));
    EXPECT_THAT(bytes.status().message(), HasSubstr("cut short"));
  }
}

TEST_P(FileReaderTest, GoesOnAfterInterruptsAndShortReads) {
  std::atomic<int> calls{0};
  FileReader::Options options = Options();
  options.pread = [&](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
    const int call = calls++;
    if (call % 3 == 0) {
      errno = EINTR;
      return -1;
    }
    // Direct reads come back short by whole blocks, and now and then by some odd number.
    const size_t most = IsDirect(fd) && call % 5 != 0 ? 8192 : 1000;
    if (!IsDirect(fd)) return ::pread(fd, data, std::min(bytes, most), offset);
    const ssize_t got = ::pread(fd, data, bytes, offset);
    return std::min(got, static_cast<ssize_t>(most));
  };
  const auto reader = MustOpen(dir_.Write("f", contents_), options);
  ExpectRandomReads(*reader, contents_, TestSeed(), 100);
  EXPECT_GT(calls.load(), 100);
}

TEST_P(FileReaderTest, ReportsReadErrors) {
  std::atomic<bool> broken{false};
  FileReader::Options options = Options();
  options.pread = [&](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
    if (!broken) return ::pread(fd, data, bytes, offset);
    errno = EIO;
    return -1;
  };
  const auto reader = MustOpen(dir_.Write("f", contents_), options);
  broken = true;
  AlignedBuffer buffer;
  const auto bytes = reader->Read(5000, 10, buffer);
  EXPECT_EQ(bytes.status().code(), absl::StatusCode::kUnavailable) << bytes.status();
  EXPECT_THAT(bytes.status().message(), HasSubstr(reader->path()));
  EXPECT_THAT(bytes.status().message(), HasSubstr("Input/output error"));
}

TEST(FileReader, FallsBackWhenTheProbeIsRefused) {
  TempDir dir;
  const std::string contents = RowBytes(2, 0, 50, 0, 100);
  FileReader::Options options;
  options.pread = [](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
    if (!IsDirect(fd)) return ::pread(fd, data, bytes, offset);
    errno = EINVAL;
    return -1;
  };
  const auto reader = MustOpen(dir.Write("f", contents), options);
  EXPECT_FALSE(reader->direct());
  ExpectRandomReads(*reader, contents, TestSeed(), 20);
}

TEST(FileReader, FallsBackWhenALaterReadIsRefused) {
  TempDir dir;
  const std::string contents = RowBytes(2, 0, 500, 0, 100);
  std::atomic<int> direct_calls{0};
  FileReader::Options options;
  options.pread = [&](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
    if (!IsDirect(fd)) return ::pread(fd, data, bytes, offset);
    if (direct_calls++ == 0) return ::pread(fd, data, bytes, offset);  // the probe
    errno = EINVAL;
    return -1;
  };
  const auto reader = MustOpen(dir.Write("f", contents), options);
  if (!reader->direct()) GTEST_SKIP() << "no direct I/O in " << dir.path();
  ExpectRandomReads(*reader, contents, TestSeed(), 20);
  EXPECT_FALSE(reader->direct());
  EXPECT_EQ(direct_calls.load(), 2);
}

TEST(FileReader, ReportsDirectReadErrorsOtherThanRefusal) {
  TempDir dir;
  FileReader::Options options;
  options.pread = [](int fd, void* data, size_t bytes, off_t offset) -> ssize_t {
    if (!IsDirect(fd)) return ::pread(fd, data, bytes, offset);
    errno = EIO;
    return -1;
  };
  const std::string path = dir.Write("f", "x");
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) GTEST_SKIP() << "no direct I/O in " << dir.path();
  ::close(fd);
  const auto reader = FileReader::Open(path, options);
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kUnavailable) << reader.status();
}

TEST(FileReader, NamesWhatCannotBeOpened) {
  TempDir dir;
  const auto missing = FileReader::Open(dir.File("missing"));
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr(dir.File("missing")));
  const auto below_a_file = FileReader::Open(dir.Write("f", "x") + "/g");
  EXPECT_EQ(below_a_file.status().code(), absl::StatusCode::kNotFound);
  const auto directory = FileReader::Open(dir.path());
  EXPECT_EQ(directory.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(directory.status().message(), HasSubstr("not a regular file"));
  ASSERT_EQ(::mkfifo(dir.File("pipe").c_str(), 0600), 0);
  const auto pipe = FileReader::Open(dir.File("pipe"));
  EXPECT_EQ(pipe.status().code(), absl::StatusCode::kInvalidArgument);
  const auto too_long = FileReader::Open(dir.File(std::string(300, 'n')));
  EXPECT_EQ(too_long.status().code(), absl::StatusCode::kUnavailable) << too_long.status();
}

TEST(FileReader, RefusesAFileWithoutPermission) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read every file";
  TempDir dir;
  const std::string path = dir.Write("f", "x");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  EXPECT_EQ(FileReader::Open(path).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(FileReader, FollowsLinksAndReadsEmptyFiles) {
  TempDir dir;
  dir.Write("empty", "");
  ASSERT_EQ(::symlink("empty", dir.File("link").c_str()), 0);
  const auto reader = MustOpen(dir.File("link"));
  EXPECT_EQ(reader->bytes(), 0u);
  AlignedBuffer buffer;
  EXPECT_TRUE(reader->Read(0, 0, buffer).ok());
}

TEST(ReadSmallFile, ReadsUpToItsBound) {
  TempDir dir;
  const std::string path = dir.Write("f", "12345");
  const auto text = ReadSmallFile(path, 5);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "12345");
  const auto longer = ReadSmallFile(path, 4);
  EXPECT_EQ(longer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(longer.status().message(), HasSubstr(path));
  EXPECT_EQ(ReadSmallFile(dir.File("g"), 4).status().code(), absl::StatusCode::kNotFound);
}

TEST(AlignedBuffer, IsAlignedAndGrows) {
  AlignedBuffer buffer;
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, size_t{1}, size_t{100'000}}) {
    std::byte* const data = buffer.Reserve(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % AlignedBuffer::kAlignment, 0u);
    EXPECT_GE(buffer.capacity(), bytes);
    data[0] = data[bytes - 1] = std::byte{1};
  }
  EXPECT_EQ(buffer.capacity(), 102'400u);
}

}  // namespace
}  // namespace engram
