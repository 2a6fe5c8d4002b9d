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
#include "tests/unit/storage/ring_testing.h"

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

  static void Answer(const FSReadRequest& request, void* place) {
    FSReadRequest& to = *static_cast<FSReadRequest*>(place);
    EXPECT_EQ(request.offset, to.offset);
    to.result = request.result;
    to.status = request.status;
  }

  // Reads `count` random aligned blocks at once and compares each.
  void ReadAndCompare(rocksdb::FSRandomAccessFile& file, size_t count, uint64_t seed) {
    std::mt19937_64 random(seed);
    void* memory = nullptr;
    ASSERT_EQ(::posix_memalign(&memory, 4096, count * 8192), 0);
    const std::unique_ptr<void, decltype(&std::free)> buffer(memory, &std::free);
    std::vector<FSReadRequest> requests(count);
    std::vector<void*> handles(count, nullptr);
    std::vector<rocksdb::IOHandleDeleter> deleters(count);
    for (size_t i = 0; i < count; ++i) {
      requests[i].offset = random() % 303 * 4096;  // the last lie at and past the end
      requests[i].len = 4096 * (1 + random() % 2);
      requests[i].scratch = static_cast<char*>(buffer.get()) + i * 8192;
      requests[i].status = rocksdb::IOStatus::Busy("not answered");
      ASSERT_TRUE(file.ReadAsync(requests[i], rocksdb::IOOptions(), &UringFileSystemTest::Answer,
                                 &requests[i], &handles[i], &deleters[i], nullptr)
                      .ok());
    }
    ASSERT_TRUE(file_system_->Poll(handles, count).ok());
    for (size_t i = 0; i < count; ++i) {
      const FSReadRequest& request = requests[i];
      ASSERT_TRUE(request.status.ok()) << request.status.ToString();
      const std::string expected = request.offset < content_.size()
                                       ? content_.substr(request.offset, request.len)
                                       : std::string();
      ASSERT_EQ(request.result.ToString(), expected) << "at " << request.offset;
      if (handles[i] != nullptr) deleters[i](handles[i]);
    }
  }

  const TestDirectory directory_;
  std::string content_;
  UringCounters counters_;
  std::shared_ptr<rocksdb::FileSystem> file_system_ =
      NewUringFileSystem(rocksdb::FileSystem::Default(), true, &counters_);
};

TEST_P(UringFileSystemTest, BatchesOfEverySizeReadRight) {
  const auto file = Open("a.sst");
  uint64_t reads = 0;
  for (const size_t count : {1u, 2u, 63u, 64u, 200u, kMaxReadsInFlight, kMaxReadsInFlight + 50}) {
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

TEST_P(UringFileSystemTest, WithoutRingsReadsAreDoneAtOnce) {
  file_system_ = NewUringFileSystem(rocksdb::FileSystem::Default(), false, &counters_);
  const auto file = Open("a.sst");
  ReadAndCompare(*file, 50, TestSeed());
  EXPECT_EQ(counters_.ring_reads.load() + counters_.fallback_reads.load(), 0u);
}

TEST_P(UringFileSystemTest, UnalignedRequests) {
  const auto file = Open("a.sst");
  std::vector<char> buffer(2 * 512 + 1);
  FSReadRequest request;
  request.offset = 513;
  request.len = 512;
  request.scratch = buffer.data() + 1;
  std::vector<void*> handles(1, nullptr);
  rocksdb::IOHandleDeleter deleter;
  const rocksdb::IOStatus status =
      file->ReadAsync(request, rocksdb::IOOptions(), &UringFileSystemTest::Answer, &request,
                      handles.data(), &deleter, nullptr);
  if (GetParam()) {
    EXPECT_TRUE(status.IsInvalidArgument()) << status.ToString();
    return;
  }
  ASSERT_TRUE(status.ok());
  ASSERT_TRUE(file_system_->Poll(handles, 1).ok());
  EXPECT_EQ(request.result.ToString(), content_.substr(513, 512));
  deleter(handles[0]);
}

TEST_P(UringFileSystemTest, AbortedReadsAreWaitedForAndNotAnswered) {
  const auto file = Open("a.sst");
  void* memory = nullptr;
  ASSERT_EQ(::posix_memalign(&memory, 4096, 8 * 4096), 0);
  const std::unique_ptr<void, decltype(&std::free)> buffer(memory, &std::free);
  std::vector<FSReadRequest> requests(8);
  std::vector<void*> handles(8, nullptr);
  rocksdb::IOHandleDeleter deleter;
  int answers = 0;
  for (size_t i = 0; i < 8; ++i) {
    requests[i].offset = i * 4096;
    requests[i].len = 4096;
    requests[i].scratch = static_cast<char*>(buffer.get()) + i * 4096;
    ASSERT_TRUE(file->ReadAsync(
                        requests[i], rocksdb::IOOptions(),
                        [&](const FSReadRequest&, void*) { ++answers; }, nullptr, &handles[i],
                        &deleter, nullptr)
                    .ok());
  }
  ASSERT_TRUE(file_system_->AbortIO(handles).ok());
  EXPECT_EQ(answers, 0);
  for (void* handle : handles) deleter(handle);
  // Nothing of them is left in the ring.
  ReadAndCompare(*file, 20, TestSeed());
}

TEST_P(UringFileSystemTest, AnotherThreadsReadsAreNotToBeWaitedFor) {
  const auto file = Open("a.sst");
  void* memory = nullptr;
  ASSERT_EQ(::posix_memalign(&memory, 4096, 4096), 0);
  const std::unique_ptr<void, decltype(&std::free)> buffer(memory, &std::free);
  FSReadRequest request;
  request.offset = 0;
  request.len = 4096;
  request.scratch = static_cast<char*>(buffer.get());
  std::vector<void*> handles(1, nullptr);
  rocksdb::IOHandleDeleter deleter;
  ASSERT_TRUE(file->ReadAsync(request, rocksdb::IOOptions(), &UringFileSystemTest::Answer, &request,
                              handles.data(), &deleter, nullptr)
                  .ok());
  std::thread([&] { EXPECT_FALSE(file_system_->Poll(handles, 1).ok()); }).join();
  ASSERT_TRUE(file_system_->Poll(handles, 1).ok());
  EXPECT_EQ(request.result.ToString(), content_.substr(0, 4096));
  deleter(handles[0]);
}

// A direct read over the end of a file of whole sectors comes short, and is asked to go on.
TEST_P(UringFileSystemTest, ARingBreaksWhileReadsComeShort) {
  constexpr size_t kReads = 256;
  std::ofstream(directory_ / "whole.sst", std::ios::binary) << content_.substr(0, 300 * 4096);
  const auto file = Open("whole.sst");
  const std::vector<int> others = testing_ring::RingDescriptors();
  // On a thread of its own, which takes its broken ring along.
  std::thread([&] {
    void* memory = nullptr;
    ASSERT_EQ(::posix_memalign(&memory, 4096, kReads * 8192), 0);
    const std::unique_ptr<void, decltype(&std::free)> buffer(memory, &std::free);
    std::vector<FSReadRequest> requests(kReads);
    std::vector<void*> handles(kReads, nullptr);
    rocksdb::IOHandleDeleter deleter;
    for (size_t i = 0; i < kReads; ++i) {
      requests[i].offset = 299 * 4096;
      requests[i].len = 8192;
      requests[i].scratch = static_cast<char*>(buffer.get()) + i * 8192;
      requests[i].status = rocksdb::IOStatus::Busy("not answered");
      ASSERT_TRUE(file->ReadAsync(requests[i], rocksdb::IOOptions(), &UringFileSystemTest::Answer,
                                  &requests[i], &handles[i], &deleter, nullptr)
                      .ok());
    }
    // The kernel has them when the ring breaks.
    ASSERT_TRUE(file_system_->Poll(handles, 0).ok());
    testing_ring::BreakTheRing(others);
    ASSERT_TRUE(file_system_->Poll(handles, kReads).ok());
    for (size_t i = 0; i < kReads; ++i) {
      ASSERT_TRUE(requests[i].status.ok()) << requests[i].status.ToString();
      ASSERT_EQ(requests[i].result.ToString(), content_.substr(299 * 4096, 4096));
      deleter(handles[i]);
    }
    ReadAndCompare(*Open("a.sst"), 20, TestSeed());
  }).join();
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
