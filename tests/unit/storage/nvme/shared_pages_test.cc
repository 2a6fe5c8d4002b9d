#include "storage/nvme/shared_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/fault/fault_file_system.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class Notes final : public SharedPages::Waiter {
 public:
  void PageCame(size_t index, absl::Span<const std::byte> value) override {
    came_.emplace_back(index, value.size());
  }
  const std::vector<std::pair<size_t, size_t>>& came() const { return came_; }

 private:
  std::vector<std::pair<size_t, size_t>> came_;
};

TEST(SharedPagesTest, WhoComesWhileAPageIsReadGetsItFromThatRead) {
  SharedPages pages;
  Notes first, second, third;
  EXPECT_TRUE(pages.Begin(PageId{7}, &first, 0));
  EXPECT_TRUE(pages.Begin(PageId{8}, &first, 1));
  EXPECT_FALSE(pages.Begin(PageId{7}, &second, 5));
  EXPECT_FALSE(pages.Begin(PageId{7}, &third, 6));
  const std::vector<std::byte> value(100);
  pages.Finish(PageId{8}, value);
  EXPECT_THAT(second.came(), IsEmpty());
  pages.Finish(PageId{7}, value);
  EXPECT_THAT(first.came(), IsEmpty());
  EXPECT_THAT(second.came(), ElementsAre(Pair(5, 100)));
  EXPECT_THAT(third.came(), ElementsAre(Pair(6, 100)));
  EXPECT_TRUE(pages.Begin(PageId{7}, &second, 5)) << "it is not being read any more";
  pages.Finish(PageId{7}, {});
}

// Reads of table files wait until they are let on.
class Gate {
 public:
  void Pass() {
    MutexLock lock(mutex_);
    ++passed_;
    changed_.NotifyAll();
    while (closed_) changed_.Wait(mutex_);
  }
  void AwaitReads(int count) {
    MutexLock lock(mutex_);
    while (passed_ < count) changed_.Wait(mutex_);
  }
  void Open() {
    MutexLock lock(mutex_);
    closed_ = false;
    changed_.NotifyAll();
  }
  void Close() {
    MutexLock lock(mutex_);
    closed_ = true;
    passed_ = 0;
  }
  int passed() {
    MutexLock lock(mutex_);
    return passed_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int passed_ ABSL_GUARDED_BY(mutex_) = 0;
};

class SharedReadsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    StoreInternals internals = SmallChunks();
    internals.wrap = [this](std::shared_ptr<rocksdb::FileSystem> base) {
      return std::make_shared<FaultFileSystem>(
          std::move(base), [this](FileOp op, const std::string& file, uint64_t, size_t) {
            if (op != FileOp::kRead || !file.ends_with(".sst")) return rocksdb::IOStatus::OK();
            gate_.Pass();
            return fail_.exchange(false) ? rocksdb::IOStatus::IOError("planted")
                                         : rocksdb::IOStatus::OK();
          });
    };
    store_ = OpenOrDie(directory_.path(), internals);
    spec_ = MakeSpec("m", 1, {{1, 5000, 264}});
    ASSERT_TRUE(Load(*store_, spec_).ok());
    auto reader = store_->OpenLayer("m", VersionId{1}, LayerId{1}, &counters_);
    ASSERT_TRUE(reader.ok()) << reader.status();
    reader_ = *std::move(reader);
  }

  const TestDirectory directory_;
  Gate gate_;
  std::atomic<bool> fail_{false};
  TableSpec spec_;
  PageReadCounters counters_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<LayerReader> reader_;
};

// Other rows of the same page, too.
TEST_F(SharedReadsTest, TwoCallersReadAPageOnce) {
  gate_.Close();
  std::thread first([&] { ExpectRows(*reader_, spec_, LayerId{1}, {RowId{0}, RowId{3}}); });
  gate_.AwaitReads(1);
  std::thread second([&] { ExpectRows(*reader_, spec_, LayerId{1}, {RowId{2}, RowId{3}}); });
  while (counters_.shared == 0) std::this_thread::yield();
  gate_.Open();
  first.join();
  second.join();
  EXPECT_EQ(gate_.passed(), 1);
  EXPECT_EQ(counters_.shared, 1u);
  EXPECT_EQ(counters_.failed, 0u);
}

// Each asks RocksDB, which has the last word.
TEST_F(SharedReadsTest, AReadThatFailsFailsNobodyElse) {
  gate_.Close();
  std::thread first([&] { ExpectRows(*reader_, spec_, LayerId{1}, {RowId{0}}); });
  gate_.AwaitReads(1);
  std::thread second([&] { ExpectRows(*reader_, spec_, LayerId{1}, {RowId{1}}); });
  while (counters_.shared == 0) std::this_thread::yield();
  fail_ = true;  // the read that is under way, and no other
  gate_.Open();
  first.join();
  second.join();
  EXPECT_EQ(counters_.retried, 2u);
  EXPECT_EQ(counters_.failed, 0u);
}

}  // namespace
}  // namespace engram
