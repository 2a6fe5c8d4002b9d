// Look-ups beside a prefetch of the same rows, over a drive that the test holds up.
#include "server/tables/tier_stack.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "server/lookup/prefetcher.h"
#include "storage/base/mutex.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

constexpr uint32_t kRowBytes = 264;
constexpr uint64_t kRows = 10000;

// A drive of derived rows. Its first read is held up until Release; all reads are recorded.
class HeldDrive final : public LayerReader {
 public:
  void Read(RowBatch& batch) override {
    std::vector<RowId> ids;
    for (const uint32_t position : batch.missing()) ids.push_back(batch.ids()[position]);
    {
      MutexLock lock(mutex_);
      reads_.push_back(ids);
      changed_.NotifyAll();
      const bool first = reads_.size() == 1;
      while (first && !released_) changed_.Wait(mutex_);
    }
    for (const uint32_t position : batch.missing()) {
      const RowId id = batch.ids()[position];
      if (id == unreadable_) {
        batch.Fail(position, absl::DataLossError("the drive cannot read this row"));
        continue;
      }
      DeriveRow(1, Raw(id), 1, {batch.row(position), kRowBytes});
    }
    batch.missing().clear();
  }
  TierUsage Usage() const override { return {}; }

  void Release() {
    MutexLock lock(mutex_);
    released_ = true;
    changed_.NotifyAll();
  }
  std::vector<std::vector<RowId>> WaitForReads(size_t count) {
    MutexLock lock(mutex_);
    while (reads_.size() < count) changed_.Wait(mutex_);
    return reads_;
  }
  void MakeUnreadable(RowId id) { unreadable_ = id; }  // before any read

 private:
  Mutex mutex_;
  CondVar changed_;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::vector<RowId>> reads_ ABSL_GUARDED_BY(mutex_);
  RowId unreadable_ = RowId::kDeadPosition;
};

std::vector<RowId> Ids(uint32_t first, uint32_t count) {
  std::vector<RowId> ids;
  for (uint32_t id = first; id < first + count; ++id) ids.push_back(RowId{id});
  return ids;
}

class TierStackTest : public ::testing::Test {
 protected:
  TierStackTest() {
    auto drive = std::make_unique<HeldDrive>();
    drive_ = drive.get();
    stack_ =
        std::make_unique<TierStack>(LayerSpec{LayerId{1}, kRows, kRowBytes, {}}, std::move(drive),
                                    "off: its budget is 0", &probe_.Layer(LayerId{1}));
    EXPECT_TRUE(
        stack_->InstallDram({.budget_bytes = uint64_t{1} << 20, .segments = segments_.get()}).ok());
  }

  struct Answer {
    explicit Answer(std::vector<RowId> wanted)
        : ids(std::move(wanted)),
          rows(ids.size() * kRowBytes),
          batch(ids, kRowBytes, absl::MakeSpan(rows)) {}
    void ExpectRow(uint32_t position) {
      std::vector<std::byte> expected(kRowBytes);
      DeriveRow(1, Raw(ids[position]), 1, absl::MakeSpan(expected));
      EXPECT_EQ(std::memcmp(batch.row(position), expected.data(), kRowBytes), 0)
          << "row " << Raw(ids[position]);
    }
    const std::vector<RowId> ids;
    std::vector<std::byte> rows;
    RowBatch batch;
  };

  struct Prefetched {
    uint64_t stored, used, unused, late;
  };
  void ExpectPrefetched(const Prefetched& expected) {
    TableSnapshot snapshot;
    probe_.AddPrefetches(snapshot);
    EXPECT_EQ(snapshot.prefetched_rows, expected.stored);
    EXPECT_EQ(snapshot.prefetched_used_rows, expected.used);
    EXPECT_EQ(snapshot.prefetched_unused_rows, expected.unused);
    EXPECT_EQ(snapshot.prefetched_late_rows, expected.late);
  }

  TableProbe probe_;
  HeldDrive* drive_ = nullptr;
  const std::unique_ptr<SegmentStore> segments_ = SegmentStore::Anonymous();
  std::unique_ptr<TierStack> stack_;
};

TEST_F(TierStackTest, ALookUpWaitsForRowsInFlightAndReadsOnlyTheOthers) {
  uint64_t offered = 0;
  std::thread prefetch([&] { offered = stack_->Fill(Ids(0, 100)); });
  drive_->WaitForReads(1);
  Answer answer(Ids(50, 100));
  std::thread look_up([&] {
    TierStack::ReadRest({{stack_.get(), &answer.batch}}, ReadPriority::kNormal);
  });
  // The look-up has read what is not in flight, and is left waiting for the rest.
  EXPECT_EQ(drive_->WaitForReads(2)[1], Ids(100, 50));
  while (stack_->waits() == 0 && drive_->WaitForReads(2).size() == 2) std::this_thread::yield();
  EXPECT_EQ(drive_->WaitForReads(2).size(), 2u) << "it has read rows in flight itself";
  drive_->Release();
  look_up.join();
  prefetch.join();
  EXPECT_EQ(offered, 100u);
  EXPECT_TRUE(answer.batch.missing().empty());
  EXPECT_EQ(answer.batch.served(TierKind::kDram), 50u);
  EXPECT_EQ(answer.batch.served(TierKind::kNvme), 50u);
  EXPECT_EQ(drive_->WaitForReads(2).size(), 2u);
  ExpectPrefetched({.stored = 100, .used = 50, .unused = 0, .late = 50});
  for (uint32_t i = 0; i < answer.ids.size(); ++i) answer.ExpectRow(i);
}

TEST_F(TierStackTest, AFillLeavesOutWhatALookUpHasBroughtMeanwhile) {
  drive_->Release();
  Answer answer(Ids(0, 30));
  TierStack::ReadRest({{stack_.get(), &answer.batch}}, ReadPriority::kNormal);
  std::vector<uint32_t> positions(30);
  std::iota(positions.begin(), positions.end(), 0u);
  stack_->Offer(answer.batch, positions);
  EXPECT_EQ(stack_->Fill(Ids(0, 40)), 10u);
  EXPECT_EQ(drive_->WaitForReads(2)[1], Ids(30, 10));
  ExpectPrefetched({.stored = 10, .used = 0, .unused = 0, .late = 30});
  EXPECT_EQ(stack_->Fill(Ids(0, 40)), 0u);
  EXPECT_EQ(drive_->WaitForReads(2).size(), 2u);
  // Fill takes what it is given for cold; the ten came by a prefetch, and nobody asked for them.
  ExpectPrefetched({.stored = 10, .used = 0, .unused = 0, .late = 60});
}

TEST_F(TierStackTest, WhatNobodyHasReadIsNotOffered) {
  drive_->Release();
  Answer unread(Ids(0, 10));
  unread.batch.missing() = {3, 4, 5};  // all others as if read
  for (uint32_t i = 0; i < 10; ++i) {
    if (i < 3 || i > 5) DeriveRow(1, i, 1, {unread.batch.row(i), kRowBytes});
  }
  std::vector<uint32_t> positions(10);
  std::iota(positions.begin(), positions.end(), 0u);
  EXPECT_EQ(stack_->Offer(unread.batch, positions), 7u);
  Answer answer(Ids(0, 10));
  TierStack::ReadRest({{stack_.get(), &answer.batch}}, ReadPriority::kNormal);
  EXPECT_EQ(drive_->WaitForReads(1)[0], Ids(3, 3));
  for (uint32_t i = 0; i < 10; ++i) answer.ExpectRow(i);
}

TEST_F(TierStackTest, APrefetchIsNotLateBehindAnother) {
  drive_->Release();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(stack_->Fill(Ids(0, 20)), i == 0 ? 20u : 0u);
  ExpectPrefetched({.stored = 20, .used = 0, .unused = 0, .late = 0});
}

TEST_F(TierStackTest, AStoppedPrefetcherReadsNothingMore) {
  {
    Dispatcher dispatcher({.threads = 1});
    Prefetcher prefetcher(nullptr, &dispatcher, 16);
    ASSERT_TRUE(prefetcher.Enqueue(nullptr, stack_.get(), Ids(0, 8192)));  // many pieces
    ASSERT_TRUE(prefetcher.Enqueue(nullptr, stack_.get(), Ids(9000, 100)));
    ASSERT_TRUE(prefetcher.Enqueue(nullptr, stack_.get(), Ids(9100, 100)));
    drive_->WaitForReads(1);  // the first piece is under way
    prefetcher.Stop();
    EXPECT_FALSE(prefetcher.Enqueue(nullptr, stack_.get(), Ids(9200, 100)));
    drive_->Release();
  }
  const std::vector<std::vector<RowId>> reads = drive_->WaitForReads(1);
  ASSERT_EQ(reads.size(), 1u);
  EXPECT_LE(reads[0].size(), Dispatcher::Options().piece_units);
}

TEST_F(TierStackTest, APrefetcherCountsOnlyRowsThatWait) {
  constexpr uint64_t kMaxRows = 1000;
  Dispatcher dispatcher({.threads = 1});
  Prefetcher prefetcher(nullptr, &dispatcher, /*max_queued=*/1, {}, kMaxRows);
  const auto enqueue = [&](uint32_t first, uint32_t count) {
    return prefetcher.Enqueue(nullptr, stack_.get(), Ids(first, count));
  };
  ASSERT_TRUE(enqueue(0, 50));
  drive_->WaitForReads(1);  // its only thread is held up
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(enqueue(1000, kMaxRows + 1)) << "too many rows";
  const bool taken = enqueue(100, 200);
  // More than the limit, all in all.
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(enqueue(1000, kMaxRows - 200)) << "the queue is full";
  drive_->Release();
  ASSERT_TRUE(taken);
  drive_->WaitForReads(2);  // nothing waits any more
  EXPECT_TRUE(enqueue(1000, kMaxRows));
}

// The caller gives the memory back at once, so it must not get the cache while somebody reads.
TEST_F(TierStackTest, TakingDramWaitsForItsLastReader) {
  // Large enough for several segments, of which a smaller budget keeps some.
  TierStack stack(LayerSpec{LayerId{1}, 60000, kRowBytes, {}}, std::make_unique<HeldDrive>(),
                  "off: its budget is 0", &probe_.Layer(LayerId{1}));
  ASSERT_TRUE(
      stack.InstallDram({.budget_bytes = uint64_t{8} << 20, .segments = segments_.get()}).ok());
  std::shared_ptr<RowCache> before;
  const std::vector<std::function<void()>> ways = {[&] {
                                                     auto resized =
                                                         stack.ResizeDram(uint64_t{6} << 20);
                                                     ASSERT_TRUE(resized.ok()) << resized.status();
                                                     before = std::move(resized->before);
                                                   },
                                                   [&] { before = stack.TakeDram(); }};
  for (const std::function<void()>& way : ways) {
    std::shared_ptr<const RowCache> reader = stack.SharedDram();
    const uint64_t waits = stack.waits();
    std::atomic<bool> returned{false};
    std::thread taker([&] {
      way();
      returned = true;
    });
    while (stack.waits() == waits && !returned) std::this_thread::yield();
    EXPECT_FALSE(returned);
    reader.reset();
    taker.join();
    ASSERT_NE(before, nullptr);
    EXPECT_EQ(before.use_count(), 1);
  }
  EXPECT_FALSE(stack.HasDram());
}

TEST_F(TierStackTest, RepeatsThatWereNeverReadAreNoZeroRows) {
  Answer answer({RowId{1}, RowId{1}, RowId{1}, RowId::kDeadPosition});
  answer.batch.SetRepeatsAside();
  stack_->Count(answer.batch);
  EXPECT_EQ(stack_->probe().zero_rows.load(), 1u);
  // Should a tier break its contract, no bytes go out that nobody has read.
  answer.batch.FillRepeats();
  ASSERT_EQ(answer.batch.failures().size(), 2u);
  EXPECT_EQ(answer.batch.failures()[0].status.code(), absl::StatusCode::kInternal);
}

TEST_F(TierStackTest, WhatLeavesDramUnreadWasFetchedForNothing) {
  drive_->Release();
  EXPECT_EQ(stack_->Fill(Ids(0, 10)), 10u);
  Answer answer({RowId{3}, RowId{4}, RowId{3}});
  stack_->ReadMemory(answer.batch);
  EXPECT_TRUE(answer.batch.missing().empty());
  ExpectPrefetched({.stored = 10, .used = 2, .unused = 0, .late = 0});
  stack_->TakeDram()->Discard();
  ExpectPrefetched({.stored = 10, .used = 2, .unused = 8, .late = 0});
}

TEST_F(TierStackTest, ARowThatThePrefetchCannotReadFailsInTheLookUp) {
  drive_->MakeUnreadable(RowId{7});
  std::thread prefetch([&] { EXPECT_EQ(stack_->Fill(Ids(0, 10)), 9u); });
  drive_->WaitForReads(1);
  Answer answer(Ids(5, 5));
  std::thread look_up([&] {
    TierStack::ReadRest({{stack_.get(), &answer.batch}}, ReadPriority::kNormal);
  });
  drive_->Release();
  look_up.join();
  prefetch.join();
  EXPECT_TRUE(answer.batch.missing().empty());
  ASSERT_EQ(answer.batch.failures().size(), 1u);
  EXPECT_EQ(answer.ids[answer.batch.failures()[0].position], RowId{7});
  EXPECT_EQ(answer.batch.failures()[0].status.code(), absl::StatusCode::kDataLoss);
  for (const uint32_t i : {0u, 1u, 3u, 4u}) answer.ExpectRow(i);
}

}  // namespace
}  // namespace engram
