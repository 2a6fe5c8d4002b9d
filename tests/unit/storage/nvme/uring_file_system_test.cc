#include "storage/nvme/uring_file_system.h"

#include <gtest/gtest.h>
#include <rocksdb/file_system.h>
#include <stdlib.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "storage/base/io_ring.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

using rocksdb::FSReadRequest;

constexpr size_t kFileBytes = 300 * 4096 + 1000;  // ends in the middle of a sector

class UringFileSystemTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (const absl::Status status = ProbeIoUring(); !status.ok()) GTEST_SKIP() << status;
    if (GetParam()) {
      const absl::Status status = ProbeDirectIo(directory_.path());
      if (!status.ok()) GTEST_SKIP() << status;
    }
    std::mt19937_64 random(TestSeed());
    content_.resize(kFileBytes);
    for (char& byte : content_) byte = static_cast<char>(random());
    std::ofstream(directory_ / "a.sst", std::ios::binary) << content_;
    std::ofstream(directory_ / "a.log", std::ios::binary) << content_;
  }

  std::unique_ptr<rocksdb::FSRandomAccessFile> Open(const std::string& name) {
    rocksdb::FileOptions options;
    options.use_direct_reads = GetParam();
    std::unique_ptr<rocksdb::FSRandomAccessFile> file;
    const rocksdb::IOStatus status =
        file_system_->NewRandomAccessFile(directory_ / name, options, &file, nullptr);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return file;
  }

  // Reads `count` random aligned blocks at once and compares each.
  void ReadAndCompare(rocksdb::FSRandomAccessFile& file, size_t count, uint64_t seed) {
    std::mt19937_64 random(seed);
    void* memory = nullptr;
    ASSERT_EQ(::posix_memalign(&memory, 4096, count * 8192), 0);
    const std::unique_ptr<void, decltype(&std::free)> buffer(memory, &std::free);
    std::vector<FSReadRequest> requests(count);
    for (size_t i = 0; i < count; ++i) {
      requests[i].offset = random() % 303 * 4096;  // the last lie at and past the end
      requests[i].len = 4096 * (1 + random() % 2);
      requests[i].scratch = static_cast<char*>(buffer.get()) + i * 8192;
    }
    ASSERT_TRUE(file.MultiRead(requests.data(), count, rocksdb::IOOptions(), nullptr).ok());
    for (const FSReadRequest& request : requests) {
      ASSERT_TRUE(request.status.ok()) << request.status.ToString();
      const std::string expected = request.offset < content_.size()
                                       ? content_.substr(request.offset, request.len)
                                       : std::string();
      ASSERT_EQ(request.result.ToString(), expected) << "at " << request.offset;
    }
  }

  const TestDirectory directory_;
  std::string content_;
  UringCounters counters_;
  const std::shared_ptr<rocksdb::FileSystem> file_system_ =
      NewUringFileSystem(rocksdb::FileSystem::Default(), &counters_);
};

TEST_P(UringFileSystemTest, BatchesOfEverySizeReadRight) {
  const auto file = Open("a.sst");
  uint64_t reads = 0;
  for (const size_t count : {1, 2, 31, 32, 63, 64, 65, 200}) {
    ReadAndCompare(*file, count, TestSeed() + count);
    reads += count;
  }
  EXPECT_EQ(counters_.ring_reads.load(), reads);
  EXPECT_EQ(counters_.fallback_reads.load(), 0u);
}

TEST_P(UringFileSystemTest, ThreadsHaveRingsOfTheirOwn) {
  const auto file = Open("a.sst");
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (uint64_t round = 0; round < 50; ++round) {
        ReadAndCompare(*file, 32, TestSeed() + i * 1000 + round);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counters_.ring_reads.load(), 4u * 50 * 32);
}

TEST_P(UringFileSystemTest, OtherFilesGoToTheBase) {
  const auto file = Open("a.log");
  ReadAndCompare(*file, 16, TestSeed());
  EXPECT_EQ(counters_.ring_reads.load(), 0u);
}

TEST_P(UringFileSystemTest, UnalignedRequests) {
  const auto file = Open("a.sst");
  std::vector<char> buffer(2 * 512 + 1);
  FSReadRequest request;
  request.offset = 513;
  request.len = 512;
  request.scratch = buffer.data() + 1;
  const rocksdb::IOStatus status = file->MultiRead(&request, 1, rocksdb::IOOptions(), nullptr);
  if (GetParam()) {
    EXPECT_TRUE(status.IsInvalidArgument()) << status.ToString();
  } else {
    ASSERT_TRUE(status.ok() && request.status.ok());
    EXPECT_EQ(request.result.ToString(), content_.substr(513, 512));
  }
}

TEST_P(UringFileSystemTest, MissingFileIsAnError) {
  std::unique_ptr<rocksdb::FSRandomAccessFile> file;
  EXPECT_FALSE(
      file_system_
          ->NewRandomAccessFile(directory_ / "no.sst", rocksdb::FileOptions(), &file, nullptr)
          .ok());
}

INSTANTIATE_TEST_SUITE_P(Modes, UringFileSystemTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) {
                           return info.param ? "Direct" : "Buffered";
                         });

TEST(ProbeTest, DirectoryThatIsNotThere) {
  const TestDirectory directory;
  EXPECT_EQ(ProbeDirectIo(directory / "no").code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace engram
