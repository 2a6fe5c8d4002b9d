#include "storage/nvme/page_reads.h"

#include <gtest/gtest.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <fstream>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "storage/nvme/uring_file_system.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

constexpr uint32_t kBlock = 4096;
constexpr size_t kBlocks = 300;
constexpr size_t kFiles = 3;

// Notes how many reads are under way, and fails those that it is told to.
class CountingFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  struct Counts {
    std::atomic<int> now{0};
    std::atomic<int> most{0};
  };
  CountingFile(std::unique_ptr<FSRandomAccessFile> base, Counts& counts)
      : FSRandomAccessFileOwnerWrapper(std::move(base)), counts_(counts) {}

  rocksdb::IOStatus ReadAsync(rocksdb::FSReadRequest& request, const rocksdb::IOOptions& options,
                              std::function<void(const rocksdb::FSReadRequest&, void*)> callback,
                              void* argument, void** handle, rocksdb::IOHandleDeleter* deleter,
                              rocksdb::IODebugContext* debug) override {
    if (request.offset == refused_offset) return rocksdb::IOStatus::IOError("refused");
    const int now = ++counts_.now;
    int most = counts_.most.load();
    while (now > most && !counts_.most.compare_exchange_weak(most, now)) {
    }
    return FSRandomAccessFileOwnerWrapper::ReadAsync(
        request, options,
        [this, callback = std::move(callback)](const rocksdb::FSReadRequest& answer,
                                               void* context) {
          --counts_.now;
          callback(answer, context);
        },
        argument, handle, deleter, debug);
  }

  uint64_t refused_offset = UINT64_MAX;

 private:
  Counts& counts_;
};

// With a ring, or with the base file system's reads, which are done at once.
class PageReadsTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    file_system_ = NewUringFileSystem(rocksdb::FileSystem::Default(), GetParam(), &uring_);
    for (size_t i = 0; i < kFiles; ++i) {
      const std::string name = directory_ / (std::to_string(i) + ".sst");
      std::ofstream out(name, std::ios::binary);
      for (size_t block = 0; block < kBlocks; ++block) out << Content(i, block);
      out.close();
      std::unique_ptr<rocksdb::FSRandomAccessFile> file;
      ASSERT_TRUE(
          file_system_->NewRandomAccessFile(name, rocksdb::FileOptions(), &file, nullptr).ok());
      files_.push_back(std::make_unique<CountingFile>(std::move(file), counts_));
    }
  }

  static std::string Content(size_t file, size_t block) {
    std::string bytes(kBlock, '\0');
    FillRow(TestSeed(), LayerId{static_cast<int32_t>(file)}, block, kBlock,
            reinterpret_cast<std::byte*>(bytes.data()));
    return bytes;
  }

  // Reads `count` random blocks and compares each; returns how many failed.
  size_t ReadAndCompare(ReadBudget& budget, size_t count, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::pair<size_t, size_t>> wanted(count);
    for (auto& [file, block] : wanted) {
      file = random() % kFiles;
      block = random() % kBlocks;
    }
    std::vector<int> answers(count);
    size_t failed = 0;
    ReadBlocks(
        *file_system_, budget, ReadPriority::kNormal, count, kBlock,
        [&](size_t i) {
          return BlockRead{files_[wanted[i].first].get(), wanted[i].second * kBlock, kBlock};
        },
        [&](size_t i, const absl::Status& status, absl::Span<const std::byte> bytes) {
          ++answers[i];
          if (!status.ok()) {
            EXPECT_TRUE(bytes.empty());
            ++failed;
            return;
          }
          const std::string content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          EXPECT_EQ(content, Content(wanted[i].first, wanted[i].second)) << "block " << i;
        });
    EXPECT_EQ(std::count(answers.begin(), answers.end(), 1), static_cast<ptrdiff_t>(count));
    return failed;
  }

  const TestDirectory directory_;
  UringCounters uring_;
  std::shared_ptr<rocksdb::FileSystem> file_system_;
  CountingFile::Counts counts_;
  std::vector<std::unique_ptr<CountingFile>> files_;
};

TEST_P(PageReadsTest, ReadsEachBlockOnceWhateverTheDepth) {
  for (const unsigned depth : {1u, 2u, 7u, 128u, 1000u}) {
    ReadBudget budget(depth);
    counts_.most = 0;
    for (const size_t count : {0u, 1u, 5u, 700u}) {
      EXPECT_EQ(ReadAndCompare(budget, count, TestSeed() + count), 0u);
    }
    EXPECT_LE(counts_.most.load(), static_cast<int>(depth));
  }
  EXPECT_EQ(uring_.ring_reads.load() > 0, GetParam());
}

TEST_P(PageReadsTest, BatchesShareTheDepthAndAllGoOn) {
  ReadBudget budget(16);
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (uint64_t round = 0; round < 10; ++round) {
        EXPECT_EQ(ReadAndCompare(budget, 200, TestSeed() + 100 * i + round), 0u);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // At worst one batch has all of it when the others join, each with its share: 16 + 8 + 5 + 4.
  EXPECT_LE(counts_.most.load(), 33);
  EXPECT_EQ(counts_.now.load(), 0);
}

TEST_P(PageReadsTest, AReadThatCannotBeStartedFailsAlone) {
  ReadBudget budget(8);
  for (auto& file : files_) file->refused_offset = 7 * kBlock;
  std::mt19937_64 random(TestSeed());
  size_t expected = 0;
  for (size_t i = 0; i < 3000; ++i) {
    random();
    expected += random() % kBlocks == 7;
  }
  EXPECT_EQ(ReadAndCompare(budget, 3000, TestSeed()), expected);
}

// Were one of its reads left in the thread's ring, it would be answered while the next batch waits,
// into what is gone.
TEST_P(PageReadsTest, ABatchThatThrowsLeavesNothingUnderWay) {
  constexpr unsigned kDepth = 64;
  ReadBudget budget(kDepth);
  for (size_t round = 0; round < 20; ++round) {
    size_t answers = 0;
    size_t asked = 0;
    const auto block = [&](size_t i) {
      // In one half of the rounds it is the queueing that fails.
      if (round % 2 == 1 && ++asked == 70 + round) throw std::bad_alloc();
      return BlockRead{files_[i % kFiles].get(), i % kBlocks * kBlock, kBlock};
    };
    const auto done = [&](size_t, const absl::Status&, absl::Span<const std::byte>) {
      if (round % 2 == 0 && ++answers == 1 + 7 * round) throw std::bad_alloc();
    };
    EXPECT_THROW(ReadBlocks(*file_system_, budget, ReadPriority::kNormal, 700, kBlock, block, done),
                 std::bad_alloc);
    {
      ReadBudget::Batch next(budget, ReadPriority::kNormal);
      unsigned started = 0;
      for (; started < 2 * kDepth && next.MayStart(); ++started) next.Started();
      EXPECT_EQ(started, kDepth);
      while (next.in_flight() > 0) next.Finished();
    }
    EXPECT_EQ(ReadAndCompare(budget, 200, TestSeed() + round), 0u);
  }
}

// A drive that does not answer a read before somebody waits for it, and then one at a time.
class LateDrive final : public rocksdb::FileSystemWrapper {
 public:
  LateDrive() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "LateDrive"; }

  class File final : public rocksdb::FSRandomAccessFile {
   public:
    explicit File(LateDrive& drive) : drive_(drive) {}
    rocksdb::IOStatus Read(uint64_t, size_t, const rocksdb::IOOptions&, rocksdb::Slice*, char*,
                           rocksdb::IODebugContext*) const override {
      return rocksdb::IOStatus::NotSupported();
    }
    rocksdb::IOStatus ReadAsync(rocksdb::FSReadRequest& request, const rocksdb::IOOptions&,
                                std::function<void(const rocksdb::FSReadRequest&, void*)> callback,
                                void* argument, void** handle, rocksdb::IOHandleDeleter* deleter,
                                rocksdb::IODebugContext*) override {
      auto read = std::make_unique<Pending>();
      read->answer.offset = request.offset;
      read->answer.len = request.len;
      read->answer.scratch = request.scratch;
      read->callback = std::move(callback);
      read->argument = argument;
      drive_.pending_.push_back(read.get());
      drive_.most_ = std::max(drive_.most_, drive_.pending_.size());
      *deleter = [](void* pending) { delete static_cast<Pending*>(pending); };
      *handle = read.release();
      return rocksdb::IOStatus::OK();
    }

   private:
    LateDrive& drive_;
  };

  rocksdb::IOStatus Poll(std::vector<void*>& handles, size_t wanted) override {
    size_t finished = 0;
    for (void* const handle : handles) finished += static_cast<Pending*>(handle)->finished;
    for (; finished < wanted; ++finished) {
      Pending& read = *pending_.front();
      pending_.pop_front();
      std::memset(read.answer.scratch, static_cast<char>(read.answer.offset), read.answer.len);
      read.answer.result = rocksdb::Slice(read.answer.scratch, read.answer.len);
      read.finished = true;
      read.callback(read.answer, read.argument);
    }
    return rocksdb::IOStatus::OK();
  }

  size_t most() const { return most_; }

 private:
  struct Pending {
    rocksdb::FSReadRequest answer;
    std::function<void(const rocksdb::FSReadRequest&, void*)> callback;
    void* argument = nullptr;
    bool finished = false;
  };

  std::deque<Pending*> pending_;
  size_t most_ = 0;
};

TEST(ReadBlocksTest, KeepsAsManyInFlightAsTheDepth) {
  constexpr size_t kCount = 700;
  for (const unsigned depth : {1u, 2u, 7u, 8u, 9u, 128u, 700u, 1000u}) {
    LateDrive drive;
    LateDrive::File file(drive);
    ReadBudget budget(depth);
    std::vector<int> answers(kCount);
    ReadBlocks(
        drive, budget, ReadPriority::kNormal, kCount, kBlock,
        [&](size_t i) {
          return BlockRead{&file, i, kBlock};
        },
        [&](size_t i, const absl::Status& status, absl::Span<const std::byte> bytes) {
          EXPECT_TRUE(status.ok()) << status;
          ASSERT_EQ(bytes.size(), kBlock);
          EXPECT_EQ(bytes.front(), static_cast<std::byte>(i));
          EXPECT_EQ(bytes.back(), static_cast<std::byte>(i));
          ++answers[i];
        });
    EXPECT_EQ(drive.most(), std::min<size_t>(depth, kCount));
    EXPECT_EQ(std::count(answers.begin(), answers.end(), 1), static_cast<ptrdiff_t>(kCount));
  }
}

TEST(ReadBudgetTest, ABatchThatWasReadLeavesItsMemoryForTheNext) {
  LateDrive drive;
  LateDrive::File file(drive);
  ReadBudget budget(8);
  ReadBlocks(
      drive, budget, ReadPriority::kNormal, 32, kBlock,
      [&](size_t i) {
        return BlockRead{&file, i, kBlock};
      },
      [](size_t, const absl::Status& status, absl::Span<const std::byte>) {
        EXPECT_TRUE(status.ok()) << status;
      });
  EXPECT_GE(budget.Take(1).bytes, 8 * kBlock);
}

TEST(ReadBudgetTest, MemoryGoesFromBatchToBatch) {
  ReadBudget budget(8);
  ReadBudget::Memory first = budget.Take(8 * kBlock);
  ASSERT_GE(first.bytes, 8 * kBlock);
  const ReadBudget::Memory second = budget.Take(8 * kBlock);
  EXPECT_NE(second.data, first.data);
  const std::byte* const data = first.data.get();
  budget.GiveBack(std::move(first));
  ReadBudget::Memory again = budget.Take(kBlock);
  EXPECT_EQ(again.data.get(), data);
  budget.GiveBack(std::move(again));
  EXPECT_GE(budget.Take(100 * kBlock).bytes, 100 * kBlock);
}

INSTANTIATE_TEST_SUITE_P(FileSystems, PageReadsTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) {
                           return info.param ? "Uring" : "Plain";
                         });

TEST(ReadBudgetTest, OneBatchHasAllAndTwoHaveHalf) {
  ReadBudget budget(8);
  ReadBudget::Batch first(budget, ReadPriority::kNormal);
  unsigned started = 0;
  for (; first.MayStart(); ++started) first.Started();
  EXPECT_EQ(started, 8u);
  {
    ReadBudget::Batch second(budget, ReadPriority::kNormal);
    for (started = 0; second.MayStart(); ++started) second.Started();
    EXPECT_EQ(started, 4u);
    for (; first.in_flight() > 4; first.Finished()) EXPECT_FALSE(first.MayStart());
    while (second.in_flight() > 0) second.Finished();
    // What the second leaves idle is the first one's.
    EXPECT_TRUE(first.MayStart());
  }
  for (started = first.in_flight(); first.MayStart(); ++started) first.Started();
  EXPECT_EQ(started, 8u);
}

TEST(ReadBudgetTest, EvenADepthOfOneLetsEveryBatchGoOn) {
  ReadBudget budget(1);
  ReadBudget::Batch first(budget, ReadPriority::kNormal);
  first.Started();
  ReadBudget::Batch second(budget, ReadPriority::kNormal);
  EXPECT_TRUE(second.MayStart());
  second.Started();
  EXPECT_FALSE(second.MayStart());
}

// How many the batch may have under way.
unsigned StartAll(ReadBudget::Batch& batch) {
  while (batch.MayStart()) batch.Started();
  return batch.in_flight();
}

TEST(ReadBudgetTest, UrgentReadsHaveTheDepthAndOthersAPartOfIt) {
  constexpr unsigned kDepth = 64;
  constexpr unsigned kCalmDepth = kDepth / ReadBudget::kCalmDivisor;
  ReadBudget budget(kDepth);
  ReadBudget::Batch normal(budget, ReadPriority::kNormal);
  EXPECT_EQ(StartAll(normal), kDepth);
  {
    ReadBudget::Batch urgent(budget, ReadPriority::kUrgent);
    EXPECT_EQ(StartAll(urgent), kDepth) << "whatever the others have under way";
    for (; normal.in_flight() > kCalmDepth; normal.Finished()) EXPECT_FALSE(normal.MayStart());
    ReadBudget::Batch second(budget, ReadPriority::kUrgent);
    EXPECT_EQ(StartAll(second), kDepth / 2);
    while (urgent.in_flight() > 0) urgent.Finished();
    while (second.in_flight() > 0) second.Finished();
  }
  // For a while, for the next token's rows.
  for (int i = 0; i < ReadBudget::kCalmReads; ++i) {
    EXPECT_LE(StartAll(normal), kCalmDepth) << i;
    normal.Finished();
    normal.Started();
  }
  EXPECT_EQ(StartAll(normal), kDepth);
  while (normal.in_flight() > 0) normal.Finished();
}

}  // namespace
}  // namespace engram
