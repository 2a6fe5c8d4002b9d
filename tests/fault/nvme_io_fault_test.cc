// The store over a drive that answers some reads with EIO and some writes with ENOSPC.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "tests/fault/fault_file_system.h"
#include "tests/fault/fault_plan.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

using rocksdb::IOStatus;
using testing::HasSubstr;

bool IsTable(const std::string& file) {
  return file.size() > 4 && file.rfind(".sst") == file.size() - 4;
}

// A hook that a test can change while the store is open.
class Faults {
 public:
  StoreInternals Internals(StoreInternals internals = SmallChunks()) {
    internals.wrap = [this](std::shared_ptr<rocksdb::FileSystem> base) {
      return std::make_shared<FaultFileSystem>(
          std::move(base),
          [this](FileOp op, const std::string& file, uint64_t offset, size_t bytes) {
            if (op == FileOp::kAppend && !TakeRoom(bytes)) {
              return IOStatus::NoSpace("no room for " + file);
            }
            const std::shared_ptr<const FaultHook> hook = std::atomic_load(&hook_);
            return hook == nullptr ? IOStatus::OK() : (*hook)(op, file, offset, bytes);
          },
          [this](const std::string& file, rocksdb::FSReadRequest& read) {
            const std::shared_ptr<FaultPlan> plan = std::atomic_load(&plan_);
            if (plan != nullptr) plan->Spoil(file, read);
          },
          [this] { return room_.load(); });
    };
    return internals;
  }
  void Set(FaultHook hook) {
    std::atomic_store(&hook_, std::make_shared<const FaultHook>(std::move(hook)));
  }
  void Clear() { std::atomic_store(&hook_, std::shared_ptr<const FaultHook>()); }
  void SetPlan(std::shared_ptr<FaultPlan> plan) { std::atomic_store(&plan_, std::move(plan)); }
  // How many bytes more fit on the drive; what is removed gives none back.
  void SetRoom(uint64_t bytes) { room_ = bytes; }

 private:
  bool TakeRoom(uint64_t bytes) {
    uint64_t room = room_.load();
    do {
      if (room == UINT64_MAX) return true;
      if (room < bytes) return false;
    } while (!room_.compare_exchange_weak(room, room - bytes));
    return true;
  }

  std::atomic<uint64_t> room_{UINT64_MAX};
  std::shared_ptr<const FaultHook> hook_;
  std::shared_ptr<FaultPlan> plan_;
};

TEST(NvmeIoFaultTest, BadSectorsFailTheirRowsOnly) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 15 * 3000, 264}});
  Faults faults;
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals(StoreInternals()));
  ASSERT_TRUE(Load(*store, spec).ok());
  PageReadCounters counters;
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1}, &counters);
  ASSERT_TRUE(reader.ok());

  // One file: page k lies at k × 4,096. Reads that touch a bad page fail whole.
  std::mt19937_64 random(TestSeed());
  std::set<uint64_t> bad;
  while (bad.size() < 100) bad.insert(random() % 3000);
  faults.Set([&](FileOp op, const std::string& file, uint64_t offset, size_t bytes) {
    if (op != FileOp::kRead || !IsTable(file)) return IOStatus::OK();
    const auto first = bad.lower_bound(offset / 4096);
    if (first == bad.end() || *first * 4096 >= offset + bytes) return IOStatus::OK();
    return IOStatus::IOError("offset " + std::to_string(offset) + " of " + file,
                             "Input/output error");
  });
  size_t failed = 0;
  size_t expected = 0;
  for (const std::vector<RowId>& ids : ShuffledBatches(spec.layers[0], random)) {
    for (const RowId id : ids) {
      if (id != RowId::kDeadPosition && bad.contains(Raw(id) / 15)) ++expected;
    }
    failed +=
        ReadAndCompare(**reader, spec, LayerId{1}, ids, [&](RowId row, const absl::Status& status) {
          return bad.contains(Raw(row) / 15) && status.code() == absl::StatusCode::kUnavailable &&
                 status.message().find("page ") != absl::string_view::npos &&
                 status.message().find(".sst") != absl::string_view::npos;
        });
  }
  EXPECT_EQ(failed, expected);
  EXPECT_GT(failed, 1000u);
  // Each of the bad pages was met once a batch at least.
  EXPECT_GE(counters.failed.load(), bad.size());
  EXPECT_EQ(counters.retried.load(), 0u);

  faults.Clear();  // the drive recovers, and so do its rows
  ExpectWholeTable(*store, spec);
}

TEST(NvmeIoFaultTest, FlakyReadsNeverGiveAWrongRow) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 20011, 264}});
  Faults faults;
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals());
  ASSERT_TRUE(Load(*store, spec).ok());
  PageReadCounters counters;
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1}, &counters);
  ASSERT_TRUE(reader.ok());
  std::atomic<uint64_t> calls{0};
  faults.Set([&](FileOp op, const std::string& file, uint64_t, size_t) {
    if (op != FileOp::kRead || !IsTable(file)) return IOStatus::OK();
    return Mix(TestSeed() + calls.fetch_add(1)) % 3 == 0 ? IOStatus::IOError("flaky")
                                                         : IOStatus::OK();
  });
  std::atomic<size_t> failed{0};
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(TestSeed() + thread);
      for (int round = 0; round < 15; ++round) {
        std::vector<RowId> ids(1 + random() % 1000);
        for (RowId& id : ids) id = RowId{static_cast<uint32_t>(random() % 20011)};
        failed +=
            ReadAndCompare(**reader, spec, LayerId{1}, ids, [](RowId, const absl::Status& status) {
              return status.code() == absl::StatusCode::kUnavailable;
            });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(failed.load(), 0u);
  EXPECT_GT(counters.failed.load(), 0u);
  EXPECT_GT(counters.retried.load(), 0u);  // most pages come at the second attempt
}

TEST(NvmeIoFaultTest, SeededFaultsOfEveryKindFailRowsAndNeverChangeThem) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 20011, 264}});
  Faults faults;
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals());
  ASSERT_TRUE(Load(*store, spec).ok());
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  std::mt19937_64 random(TestSeed());
  const auto plan = std::make_shared<FaultPlan>(
      TestSeed(), FaultPlan::Rates{.error = 0.1, .short_read = 0.1, .bit_flip = 0.1});
  faults.SetPlan(plan);
  size_t failed = 0;
  for (const std::vector<RowId>& ids : ShuffledBatches(spec.layers[0], random)) {
    failed +=
        ReadAndCompare(**reader, spec, LayerId{1}, ids, [](RowId, const absl::Status& status) {
          return status.code() == absl::StatusCode::kUnavailable ||
                 status.code() == absl::StatusCode::kDataLoss;
        });
  }
  EXPECT_GT(failed, 0u);
  for (const FaultKind kind : {FaultKind::kError, FaultKind::kShortRead, FaultKind::kBitFlip}) {
    EXPECT_GT(plan->done(kind), 0u) << static_cast<int>(kind);
  }
  faults.SetPlan(nullptr);
  ExpectWholeTable(*store, spec);
}

TEST(NvmeIoFaultTest, WholeDriveGone) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 3000, 264}});
  Faults faults;
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals());
  ASSERT_TRUE(Load(*store, spec).ok());
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  faults.Set([](FileOp op, const std::string&, uint64_t, size_t) {
    return op == FileOp::kRead ? IOStatus::IOError("No such device") : IOStatus::OK();
  });
  const std::vector<RowId> ids = {RowId{0}, RowId{2999}, RowId{0}, RowId{77}, RowId::kDeadPosition};
  EXPECT_EQ(ReadAndCompare(**reader, spec, LayerId{1}, ids,
                           [](RowId, const absl::Status& status) {
                             return status.code() == absl::StatusCode::kUnavailable;
                           }),
            4u);
}

TEST(NvmeIoFaultTest, FullDriveStopsALoadThatGoesOnLater) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 20011, 264}});
  Faults faults;
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals());
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(WriteChunks(**writer, spec, 2).ok());
  writer->reset();
  writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  const size_t todo = (*writer)->todo().size();
  faults.Set([](FileOp op, const std::string& file, uint64_t, size_t) {
    return op == FileOp::kAppend && IsTable(file) ? IOStatus::NoSpace("no room for " + file)
                                                  : IOStatus::OK();
  });
  const absl::Status status = WriteChunks(**writer, spec, SIZE_MAX);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("make room"));
  writer->reset();
  faults.Clear();
  writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->todo().size(), todo);
  ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
  ASSERT_TRUE((*writer)->Publish().ok());
  ExpectWholeTable(*store, spec);
}

TEST(NvmeIoFaultTest, EachFailedOperationOfALoadLeavesItResumable) {
  // Fails the n-th operation for a spread of n, then opens the directory anew, as after the
  // daemon's restart, and finishes the load.
  const TableSpec spec = MakeSpec("m", 1, {{1, 2000, 264}, {14, 900, 160}});
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 15; ++round) {
    const TestDirectory directory;
    Faults faults;
    std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals());
    ASSERT_NE(store, nullptr);
    std::atomic<uint64_t> left{random() % 120};
    faults.Set([&](FileOp op, const std::string& file, uint64_t, size_t) {
      if (op == FileOp::kRead || left.fetch_sub(1) != 0) return IOStatus::OK();
      return IOStatus::IOError("injected into " + file);
    });
    const absl::StatusOr<TableRecord> first = Load(*store, spec);
    store.reset();
    faults.Clear();
    store = OpenOrDie(directory.path());
    ASSERT_NE(store, nullptr);
    const absl::StatusOr<TableRecord> found = store->Find("m", VersionId{1});
    const bool published = found.ok() && found->state == TableState::kPublished;
    if (first.ok()) {
      EXPECT_TRUE(published);
    }
    if (!published) {
      const absl::StatusOr<TableRecord> second = Load(*store, spec);
      ASSERT_TRUE(second.ok()) << second.status() << " after " << first.status();
    }
    ExpectWholeTable(*store, spec);
  }
}

TEST(NvmeIoFaultTest, FullDriveAtAnyMomentIsOverWhenThereIsRoom) {
  // A drive with room for a part of a load; then the same store, not opened anew, does what it
  // could not do.
  const TableSpec first = MakeSpec("m", 1, {{1, 2000, 264}, {14, 900, 160}}, 1);
  const TableSpec second = MakeSpec("m", 2, {{1, 2000, 264}, {14, 900, 160}}, 2);
  constexpr uint64_t kHeadroom = 256 << 10;
  std::mt19937_64 random(TestSeed());
  size_t refused = 0;
  for (int round = 0; round < 15; ++round) {
    const TestDirectory directory;
    Faults faults;
    StoreInternals internals = SmallChunks();
    internals.headroom_bytes = kHeadroom;
    std::unique_ptr<Store> store = OpenOrDie(directory.path(), faults.Internals(internals));
    ASSERT_NE(store, nullptr);
    ASSERT_TRUE(Load(*store, first).ok());
    const uint64_t room = random() % (kHeadroom + (800 << 10));
    SCOPED_TRACE("room for " + std::to_string(room) + " bytes");
    faults.SetRoom(room);
    const auto expect_full = [&](const absl::Status& status) {
      if (status.ok()) return;
      ++refused;
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("make room"));
    };
    const absl::Status loaded = Load(*store, second).status();
    expect_full(loaded);
    expect_full(loaded.ok() ? store->Activate("m", VersionId{2}) : loaded);
    ExpectWholeTable(*store, first);
    // It can be dropped even then, and begun anew.
    if (!loaded.ok() && round % 3 == 0) {
      const absl::Status dropped = store->Drop("m", VersionId{2});
      EXPECT_TRUE(dropped.ok() || absl::IsNotFound(dropped)) << dropped;
    }
    faults.SetRoom(UINT64_MAX);
    const absl::Status again = Load(*store, second).status();
    EXPECT_TRUE(again.ok() || (loaded.ok() && absl::IsAlreadyExists(again))) << again;
    EXPECT_TRUE(store->Activate("m", VersionId{2}).ok());
    ExpectWholeTable(*store, second);
    EXPECT_TRUE(store->Drop("m", VersionId{1}).ok());
    store.reset();
    store = OpenOrDie(directory.path());
    ASSERT_NE(store, nullptr);
    EXPECT_TRUE(store->Find("m", VersionId{2})->active);
    EXPECT_FALSE(store->Find("m", VersionId{1}).ok());
    ExpectWholeTable(*store, second);
  }
  EXPECT_GT(refused, 0u);
}

}  // namespace
}  // namespace engram
