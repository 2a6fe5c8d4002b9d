#include "storage/nvme/uring_writable_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/file_system.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <system_error>

#include "storage/base/io_ring.h"
#include "storage/base/unique_fd.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/uring_file_system.h"
#include "tests/unit/storage/nvme/store_fixture.h"
#include "tests/unit/storage/ring_testing.h"

namespace engram {
namespace {

using rocksdb::FSWritableFile;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr size_t kBuffer = UringWriteOptions::kBufferBytes;
// More than all buffers hold, and no whole number of blocks.
constexpr size_t kBytes = 2 * UringWriteOptions::kBuffers * kBuffer + 5 * 4096 + 77;

class UringWritableFileTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status direct = ProbeDirectIo(directory_.path()); !direct.ok()) {
      GTEST_SKIP() << direct;
    }
    random_.seed(TestSeed());
    content_.resize(kBytes);
    for (char& byte : content_) byte = static_cast<char>(random_());
  }

  std::string path() const { return directory_ / "a.sst"; }
  std::unique_ptr<FSWritableFile> Make(UringWriteOptions options = {}) {
    std::unique_ptr<FSWritableFile> file;
    const IOStatus status = NewUringWritableFile(path(), std::move(options), &file);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return file;
  }
  std::string Stored() const {
    std::ifstream in(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  // Appends content_[from, to) by random amounts; the first error ends it.
  IOStatus Append(FSWritableFile& file, size_t from, size_t to) {
    while (from < to) {
      const size_t bytes =
          std::min<size_t>(to - from, 1 + random_() % (random_() % 8 ? 5000 : 3'000'000));
      const IOStatus status = file.Append({content_.data() + from, bytes}, IOOptions(), nullptr);
      if (!status.ok()) return status;
      from += bytes;
    }
    return IOStatus::OK();
  }
  static IOStatus Sync(FSWritableFile& file) { return file.Sync(IOOptions(), nullptr); }
  static IOStatus Close(FSWritableFile& file) { return file.Close(IOOptions(), nullptr); }
  // The error of the whole: writing, syncing and closing, whichever says it.
  IOStatus WriteAll(FSWritableFile& file, size_t bytes) {
    const IOStatus written = Append(file, 0, bytes);
    const IOStatus synced = Sync(file);
    const IOStatus closed = Close(file);
    // Whoever only looks at the end must see it too.
    EXPECT_EQ(synced.ok(), closed.ok());
    EXPECT_TRUE(written.ok() || !synced.ok());
    return closed;
  }
  void ExpectWritten(UringWriteOptions options) {
    const auto file = Make(std::move(options));
    const IOStatus status = WriteAll(*file, kBytes);
    ASSERT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(file->GetFileSize(IOOptions(), nullptr), kBytes);
    EXPECT_TRUE(Stored() == content_);
  }

  const TestDirectory directory_;
  std::mt19937_64 random_;
  std::string content_;
};

TEST_F(UringWritableFileTest, HoldsWhatWasAppended) {
  ExpectWritten({.expected_bytes = 0, .on_write = nullptr});
  ExpectWritten({.expected_bytes = kBytes, .on_write = nullptr});
  ExpectWritten({.expected_bytes = 3 * kBuffer, .on_write = nullptr});        // too few
  ExpectWritten({.expected_bytes = 2 * kBytes, .on_write = nullptr});         // too many
  ExpectWritten({.expected_bytes = uint64_t{1} << 60, .on_write = nullptr});  // not to be had
}

TEST_F(UringWritableFileTest, GoesOnAfterASync) {
  const auto file = Make({.expected_bytes = kBytes, .on_write = nullptr});
  size_t done = 0;
  for (const size_t end : {size_t{5}, size_t{5}, size_t{4096}, size_t{5000}, kBuffer - 1, kBuffer,
                           3 * kBuffer + 100, kBytes}) {
    ASSERT_TRUE(Append(*file, done, end).ok());
    ASSERT_TRUE(Sync(*file).ok());
    EXPECT_TRUE(Stored() == content_.substr(0, end)) << end;
    done = end;
  }
  EXPECT_TRUE(Close(*file).ok());
  EXPECT_TRUE(Close(*file).ok());
  EXPECT_TRUE(Stored() == content_);
}

TEST_F(UringWritableFileTest, CloseAloneWritesAllToo) {
  const auto file = Make();
  ASSERT_TRUE(Append(*file, 0, 3 * kBuffer + 9).ok());
  ASSERT_TRUE(Close(*file).ok());
  EXPECT_TRUE(Stored() == content_.substr(0, 3 * kBuffer + 9));
}

TEST_F(UringWritableFileTest, GivesBackTheSpaceItDidNotNeed) {
  const auto file = Make({.expected_bytes = 64 * kBuffer, .on_write = nullptr});
  ASSERT_TRUE(WriteAll(*file, kBuffer).ok());
  struct stat info {};
  ASSERT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_size, static_cast<off_t>(kBuffer));
  EXPECT_LE(info.st_blocks * 512, static_cast<int64_t>(2 * kBuffer));
}

TEST_F(UringWritableFileTest, RepeatsInterruptedAndShortWrites) {
  int calls = 0;
  ExpectWritten({.expected_bytes = kBytes, .on_write = [&](uint64_t, size_t, int32_t result) {
                   const int call = calls++;
                   if (call % 4 == 1) return -EINTR;
                   if (call % 4 == 2) return -EAGAIN;
                   // The rest has been written, but is written once more.
                   return call % 4 == 3 ? std::min(result, 8192) : result;
                 }});
  EXPECT_GT(calls, 20);
}

TEST_F(UringWritableFileTest, ReportsAnyFailedWrite) {
  // The first, one in the middle, and the tail that only Sync writes.
  for (const uint64_t bad : {uint64_t{0}, uint64_t{5 * kBuffer}, kBytes / kBuffer * kBuffer}) {
    const auto file =
        Make({.expected_bytes = kBytes, .on_write = [&](uint64_t offset, size_t, int32_t result) {
                return offset == bad ? -EIO : result;
              }});
    const absl::Status status = FromRocks(WriteAll(*file, kBytes), "writing the chunk");
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("at offset " + std::to_string(bad) + " of " + path()),
                      HasSubstr("Input/output error")));
  }
}

TEST_F(UringWritableFileTest, NothingIsWrittenAfterAnError) {
  uint64_t last = 0;
  const auto file =
      Make({.expected_bytes = kBytes, .on_write = [&](uint64_t offset, size_t, int32_t result) {
              last = std::max(last, offset);
              return offset == 0 ? -EIO : result;
            }});
  EXPECT_FALSE(WriteAll(*file, kBytes).ok());
  // At most what was under way by then.
  EXPECT_LE(last, (UringWriteOptions::kBuffers + 1) * kBuffer);
}

TEST_F(UringWritableFileTest, NoRoomIsResourceExhausted) {
  for (const int error : {ENOSPC, EDQUOT}) {
    const auto file =
        Make({.expected_bytes = kBytes, .on_write = [&](uint64_t offset, size_t, int32_t result) {
                return offset == 2 * kBuffer ? -error : result;
              }});
    const absl::Status status = FromRocks(WriteAll(*file, kBytes), "writing the chunk");
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("make room on the file system"));
  }
}

TEST_F(UringWritableFileTest, AWriteOfNothingOrOfHalfABlockIsAnError) {
  for (const int32_t result : {0, 1000}) {
    const auto file = Make(
        {.expected_bytes = kBytes, .on_write = [&](uint64_t, size_t, int32_t) { return result; }});
    EXPECT_TRUE(WriteAll(*file, kBytes).IsIOError());
  }
}

TEST_F(UringWritableFileTest, TheSystemsOwnErrorComesOut) {
  const auto file = Make();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{2 * kBuffer, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const IOStatus status = WriteAll(*file, kBytes);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(status.IsIOError());
  EXPECT_THAT(status.ToString(), HasSubstr("File too large"));
}

TEST_F(UringWritableFileTest, SyncsOnceAllIsWrittenAndCut) {
  uint64_t answered = 0;  // the end of what is
  size_t appended = 0;
  int syncs = 0;
  const auto file = Make({.expected_bytes = 2 * kBytes,
                          .on_write =
                              [&](uint64_t offset, size_t bytes, int32_t result) {
                                answered = std::max(answered, offset + bytes);
                                return result;
                              },
                          .on_sync =
                              [&](int result) {
                                ++syncs;
                                EXPECT_GE(answered, appended);
                                EXPECT_EQ(std::filesystem::file_size(path()), appended);
                                return result;
                              }});
  for (const size_t end : {kBuffer + 5, 3 * kBuffer, kBytes}) {
    ASSERT_TRUE(Append(*file, appended, end).ok());
    appended = end;
    ASSERT_TRUE(Sync(*file).ok());
  }
  EXPECT_EQ(syncs, 3);
  ASSERT_TRUE(file->Fsync(IOOptions(), nullptr).ok());
  EXPECT_EQ(syncs, 4);
  EXPECT_TRUE(Close(*file).ok());
}

TEST_F(UringWritableFileTest, ReportsAFailedSync) {
  const auto file =
      Make({.expected_bytes = kBytes, .on_write = nullptr, .on_sync = [](int) { return -EIO; }});
  ASSERT_TRUE(Append(*file, 0, kBuffer + 5).ok());
  for (const IOStatus& status : {Sync(*file), Close(*file)}) {
    EXPECT_TRUE(status.IsIOError());
    EXPECT_THAT(status.ToString(),
                AllOf(HasSubstr("syncing " + path()), HasSubstr("Input/output error")));
  }
}

// Nothing else tells whether the system was asked: the file is swapped for one that cannot sync.
TEST_F(UringWritableFileTest, ReportsWhatTheSystemSaysOfASync) {
  const auto file = Make();
  ASSERT_TRUE(Append(*file, 0, kBuffer + 5).ok());
  ASSERT_TRUE(Sync(*file).ok());
  const UniqueFd null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  int swapped = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the fd that lists the directory
    if (std::filesystem::read_symlink(entry, gone) != path()) continue;
    ASSERT_GE(::dup3(null.get(), std::stoi(entry.path().filename()), O_CLOEXEC), 0);
    ++swapped;
  }
  ASSERT_EQ(swapped, 1);
  EXPECT_TRUE(Sync(*file).IsIOError());
  EXPECT_TRUE(Close(*file).IsIOError());
}

TEST_F(UringWritableFileTest, WithoutARingItWritesAllTheSame) {
  testing_ring::WithoutRings([this] {
    EXPECT_FALSE(ProbeIoUring().ok());
    const auto file = Make({.expected_bytes = kBytes, .on_write = nullptr});
    EXPECT_TRUE(WriteAll(*file, kBytes).ok());
  });
  EXPECT_TRUE(Stored() == content_);
}

TEST_F(UringWritableFileTest, ARingThatBreaksIsReplacedByPlainWrites) {
  if (const absl::Status ring = ProbeIoUring(); !ring.ok()) GTEST_SKIP() << ring;
  // Reads of other tests leave their thread's ring when all run in one process.
  const std::vector<int> others = testing_ring::RingDescriptors();
  const auto file = Make({.expected_bytes = kBytes, .on_write = nullptr});
  ASSERT_TRUE(Append(*file, 0, 3 * kBuffer + 5).ok());
  testing_ring::BreakTheRing(others);
  ASSERT_TRUE(Append(*file, 3 * kBuffer + 5, kBytes).ok());
  ASSERT_TRUE(Sync(*file).ok());
  ASSERT_TRUE(Close(*file).ok());
  EXPECT_TRUE(Stored() == content_);
}

TEST_F(UringWritableFileTest, IsMadeOnlyForTheLoader) {
  const auto file_system = NewUringFileSystem(rocksdb::FileSystem::Default(), true, nullptr);
  rocksdb::FileOptions options;
  options.use_direct_writes = true;
  const auto direct = [&] {
    std::unique_ptr<FSWritableFile> file;
    EXPECT_TRUE(file_system->NewWritableFile(path(), options, &file, nullptr).ok());
    // RocksDB's own says so, ours aligns by itself.
    return file->use_direct_io();
  };
  EXPECT_TRUE(direct());
  {
    const ExpectedFileBytes outer(100);
    EXPECT_FALSE(direct());
    {
      const ExpectedFileBytes inner(0);
      EXPECT_TRUE(direct());
    }
    EXPECT_EQ(ExpectedFileBytes::current(), 100u);
  }
  EXPECT_TRUE(direct());
}

TEST_F(UringWritableFileTest, SaysWhyAFileCannotBeMade) {
  std::unique_ptr<FSWritableFile> file;
  const IOStatus status = NewUringWritableFile(directory_ / "no/such", {}, &file);
  EXPECT_TRUE(status.IsIOError());
  EXPECT_THAT(status.ToString(), HasSubstr("no/such"));
}

}  // namespace
}  // namespace engram
