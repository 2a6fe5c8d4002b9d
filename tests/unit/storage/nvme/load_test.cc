// Loading: resuming, cancelling, publishing, and every state that a crash can leave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "storage/nvme/catalog_record.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::vector<TestLayer> kTwoLayers = {{1, 20011, 264}, {14, 9001, 160}};

std::string Text(const absl::Status& status) { return std::string(status.message()); }

// Files that RocksDB removes meanwhile in the background are left out, as in a crash a moment
// later.
void CopyDirectory(const std::string& from, const std::string& to) {
  fs::remove_all(to);
  fs::create_directories(to);
  std::error_code error;
  for (fs::directory_iterator entry(from, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string target = to + "/" + entry->path().filename().string();
    std::error_code vanished;
    if (entry->is_directory(vanished)) {
      CopyDirectory(entry->path().string(), target);
    } else {
      fs::copy_file(entry->path(), target, vanished);
      ASSERT_TRUE(!vanished || vanished == std::errc::no_such_file_or_directory) << vanished;
    }
  }
  ASSERT_FALSE(error) << error;
}

// Nothing of the version may be seen; the load must be taken up and give every row.
void ExpectUnpublishedAndFinish(const std::string& directory, const TableSpec& spec,
                                size_t most_todo) {
  std::unique_ptr<Store> store = OpenOrDie(directory);
  for (const TableRecord& table : store->List()) {
    EXPECT_EQ(table.state, TableState::kLoading);
    EXPECT_FALSE(table.active);
  }
  EXPECT_EQ(store->OpenLayer(spec.name, spec.version, LayerId{1}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store->Activate(spec.name, spec.version).code(), absl::StatusCode::kFailedPrecondition);
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_LE((*writer)->todo().size(), most_todo);
  uint64_t rows = (*writer)->rows_done();
  for (const Chunk& chunk : (*writer)->todo()) rows += chunk.rows;
  EXPECT_EQ(rows, spec.rows());
  ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
  const absl::StatusOr<TableRecord> record = (*writer)->Publish();
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_TRUE(record->active);
  ExpectWholeTable(*store, spec);
  EXPECT_TRUE(fs::is_empty(directory + "/load"));
}

TEST(LoadTest, ResumesWhatIsWhole) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  size_t chunks = 0;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok()) << writer.status();
    chunks = (*writer)->todo().size();
    ASSERT_GT(chunks, 6u);
    EXPECT_EQ((*writer)->rows_done(), 0u);
    ASSERT_TRUE(WriteChunks(**writer, spec, 4).ok());
    EXPECT_EQ((*writer)->Publish().status().code(), absl::StatusCode::kFailedPrecondition);
    // Abandoned, and taken up within the same process.
    writer->reset();
    writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_EQ((*writer)->todo().size(), chunks - 4);
    ASSERT_TRUE(WriteChunks(**writer, spec, 1).ok());
  }
  ExpectUnpublishedAndFinish(directory.path(), spec, chunks - 5);
}

TEST(LoadTest, ChunkFilesThatChangedAreWrittenAgain) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  size_t chunks = 0;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    chunks = (*writer)->todo().size();
    ASSERT_TRUE(WriteChunks(**writer, spec, 4).ok());
  }
  fs::remove(directory / "load/m@1/1-000000.sst");
  fs::resize_file(directory / "load/m@1/1-000001.sst", 4096);
  ExpectUnpublishedAndFinish(directory.path(), spec, chunks - 2);
}

// A crash while a lost file is written again may leave one of the recorded size and other bytes.
TEST(LoadTest, ALostFilesRecordIsForgottenBeforeItIsWrittenAgain) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  const std::string file = directory / "load/m@1/1-000000.sst";
  size_t chunks = 0;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    chunks = (*writer)->todo().size();
    ASSERT_TRUE(WriteChunks(**writer, spec, 4).ok());
    writer->reset();
    const uint64_t bytes = fs::file_size(file);
    fs::remove(file);
    writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    ASSERT_EQ((*writer)->todo().size(), chunks - 3);
    writer->reset();
    std::ofstream(file, std::ios::binary) << std::string(bytes, '?');
    ASSERT_EQ(fs::file_size(file), bytes);
    writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ((*writer)->todo().size(), chunks - 3);
    EXPECT_EQ((*writer)->todo()[0].index, 0u);
    EXPECT_EQ((*writer)->todo()[0].layer, LayerId{1});
  }
  ExpectUnpublishedAndFinish(directory.path(), spec, chunks - 3);
}

TEST(LoadTest, ChunksOfSeveralThreads) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      const RowGenerator generator{spec};
      for (size_t at; (at = next.fetch_add(1)) < (*writer)->todo().size();) {
        const Chunk& chunk = (*writer)->todo()[at];
        const absl::Status status = (*writer)->WriteChunk(chunk, generator, cancelled, rows);
        EXPECT_TRUE(status.ok()) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(rows.load(), spec.rows());
  ASSERT_TRUE((*writer)->Publish().ok());
  EXPECT_EQ((*writer)->Publish().status().code(), absl::StatusCode::kFailedPrecondition);
  ExpectWholeTable(*store, spec);
}

TEST(LoadTest, DigestsDependOnRowsNotOnTheWayTheyCame) {
  const TestDirectory one;
  const TestDirectory two;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers, 5);
  std::unique_ptr<Store> a = OpenOrDie(one.path());
  std::unique_ptr<Store> b = OpenOrDie(two.path());
  const auto straight = Load(*a, spec);
  ASSERT_TRUE(straight.ok());
  for (int i = 0; i < 3; ++i) {
    auto writer = b->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(WriteChunks(**writer, spec, 3).ok());
  }
  const auto in_parts = Load(*b, spec);
  ASSERT_TRUE(in_parts.ok());
  EXPECT_EQ(straight->table_digest, in_parts->table_digest);
  const auto others = Load(*b, MakeSpec("m", 2, kTwoLayers, 6));
  ASSERT_TRUE(others.ok());
  EXPECT_NE(others->table_digest, straight->table_digest);
}

TEST(LoadTest, CancelledChunkStaysToDo) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{0, 400000, 64}});  // more than one block of rows
  std::unique_ptr<Store> store = OpenOrDie(directory.path(), StoreInternals());
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  const RowGenerator generator{spec};
  const auto cancel_after_first = [&](LayerId layer, uint64_t first, uint64_t count,
                                      absl::Span<std::byte> out) {
    cancelled = true;
    return generator(layer, first, count, out);
  };
  const Chunk chunk = (*writer)->todo()[0];
  EXPECT_EQ((*writer)->WriteChunk(chunk, cancel_after_first, cancelled, rows).code(),
            absl::StatusCode::kCancelled);
  EXPECT_LT(rows.load(), chunk.rows);
  EXPECT_TRUE(fs::is_empty(directory / "load/m@1"));
  EXPECT_EQ((*writer)->Publish().status().code(), absl::StatusCode::kFailedPrecondition);
  cancelled = false;
  EXPECT_TRUE((*writer)->WriteChunk(chunk, generator, cancelled, rows).ok());
  EXPECT_EQ((*writer)->WriteChunk(chunk, generator, cancelled, rows).code(),
            absl::StatusCode::kInvalidArgument);  // not to do any more
}

TEST(LoadTest, ErrorsOfTheReaderComeThrough) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  const auto broken = [](LayerId, uint64_t, uint64_t, absl::Span<std::byte>) {
    return absl::DataLossError("shard 3 is short");
  };
  const absl::Status status = (*writer)->WriteChunk((*writer)->todo()[0], broken, cancelled, rows);
  EXPECT_EQ(status, absl::DataLossError("shard 3 is short"));
}

TEST(LoadTest, OneWriterAVersion) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers, 1);
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  const absl::Status second = store->BeginLoad(spec).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(second), HasSubstr("right now"));
  EXPECT_EQ(store->Drop("m", VersionId{1}).code(), absl::StatusCode::kFailedPrecondition);
  writer->reset();

  const absl::Status other = store->BeginLoad(MakeSpec("m", 1, kTwoLayers, 2)).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(other), HasSubstr("another checkpoint"));
  EXPECT_THAT(Text(other), HasSubstr("drop"));
  ASSERT_TRUE(Load(*store, spec).ok());
  EXPECT_EQ(store->BeginLoad(spec).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(LoadTest, DroppingALoadingVersionRemovesItsFiles) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  {
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(WriteChunks(**writer, spec, 2).ok());
  }
  EXPECT_FALSE(fs::is_empty(directory / "load"));
  ASSERT_TRUE(store->Drop("m", VersionId{1}).ok());
  EXPECT_TRUE(fs::is_empty(directory / "load"));
  EXPECT_TRUE(store->List().empty());
  // Nothing of the dropped load is taken for the next one's.
  const TableSpec next = MakeSpec("m", 1, kTwoLayers, 2);
  auto writer = store->BeginLoad(next);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->rows_done(), 0u);
}

TEST(LoadTest, CrashAfterEachChunk) {
  const TestDirectory directory;
  const TestDirectory copies;
  const TableSpec spec = MakeSpec("m", 1, {{1, 4000, 264}, {14, 2000, 160}});
  size_t steps = 0;
  size_t chunks = 0;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    chunks = (*writer)->todo().size();
    CopyDirectory(directory.path(), copies / std::to_string(steps++));
    const std::atomic<bool> cancelled{false};
    std::atomic<uint64_t> rows{0};
    for (const Chunk& chunk : (*writer)->todo()) {
      ASSERT_TRUE((*writer)->WriteChunk(chunk, RowGenerator{spec}, cancelled, rows).ok());
      CopyDirectory(directory.path(), copies / std::to_string(steps++));
    }
  }
  for (size_t step = 0; step < steps; ++step) {
    ExpectUnpublishedAndFinish(copies / std::to_string(step), spec, chunks - step);
  }
}

TEST(LoadTest, CrashBetweenTheStepsOfAPublication) {
  const TestDirectory directory;
  const TestDirectory copies;
  const TableSpec spec = MakeSpec("m", 1, {{1, 4000, 264}, {14, 2000, 160}});
  std::vector<std::string> steps;
  {
    StoreInternals internals = SmallChunks();
    internals.on_step = [&](const char* step) {
      CopyDirectory(directory.path(), copies / std::to_string(steps.size()));
      steps.push_back(step);
    };
    std::unique_ptr<Store> store = OpenOrDie(directory.path(), internals);
    ASSERT_TRUE(Load(*store, spec).ok());
  }
  ASSERT_THAT(steps, testing::ElementsAre("family made", "family made", "ingested", "published"));
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string copy = copies / std::to_string(i);
    if (steps[i] != "published") {
      ExpectUnpublishedAndFinish(copy, spec, 0);
      continue;
    }
    std::unique_ptr<Store> store = OpenOrDie(copy);
    ASSERT_EQ(store->List().size(), 1u);
    EXPECT_TRUE(store->List()[0].active);
    EXPECT_TRUE(fs::is_empty(copy + "/load"));
    ExpectWholeTable(*store, spec);
  }
}

TEST(LoadTest, IngestedFilesWithoutStagingArePublished) {
  // As after a crash that comes when the staging files have been moved away already.
  const TestDirectory directory;
  const TestDirectory copy;
  const TableSpec spec = MakeSpec("m", 1, {{1, 4000, 264}});
  {
    StoreInternals internals = SmallChunks();
    internals.on_step = [&](const char* step) {
      if (std::string(step) == "ingested") CopyDirectory(directory.path(), copy.path());
    };
    std::unique_ptr<Store> store = OpenOrDie(directory.path(), internals);
    ASSERT_TRUE(Load(*store, spec).ok());
  }
  fs::remove_all(copy / "load");
  ExpectUnpublishedAndFinish(copy.path(), spec, 0);
}

TEST(LoadTest, CrashBetweenTheStepsOfADrop) {
  const TestDirectory directory;
  const TestDirectory copies;
  const TableSpec kept = MakeSpec("kept", 1, {{1, 3000, 264}});
  const TableSpec dropped = MakeSpec("dropped", 1, {{1, 4000, 264}});
  size_t steps = 0;
  {
    StoreInternals internals = SmallChunks();
    bool dropping = false;
    internals.on_step = [&](const char*) {
      if (dropping) CopyDirectory(directory.path(), copies / std::to_string(steps++));
    };
    std::unique_ptr<Store> store = OpenOrDie(directory.path(), internals);
    ASSERT_TRUE(Load(*store, kept).ok());
    ASSERT_TRUE(Load(*store, dropped).ok());
    dropping = true;
    ASSERT_TRUE(store->Drop("dropped", VersionId{1}).ok());
  }
  ASSERT_EQ(steps, 2u);
  for (size_t step = 0; step < steps; ++step) {
    const std::string copy = copies / std::to_string(step);
    OpenOrDie(copy).reset();  // removes what is left
    uint64_t bytes = 0;
    for (const auto& path : SstFiles(copy)) bytes += fs::file_size(path);
    EXPECT_LT(bytes, kept.bytes() * 5 / 4);
    std::unique_ptr<Store> store = OpenOrDie(copy);
    EXPECT_EQ(store->List().size(), 1u);
    ExpectWholeTable(*store, kept);
    ASSERT_TRUE(Load(*store, dropped).ok());
    ExpectWholeTable(*store, dropped);
  }
}

TEST(LoadTest, FoldersWithoutARecordAreRemoved) {
  const TestDirectory directory;
  OpenOrDie(directory.path()).reset();
  fs::create_directories(directory / "load/gone@3");
  std::ofstream(directory / "load/gone@3/0-000000.sst") << "left over";
  fs::create_directories(directory / "load/lost+found");  // not ours
  OpenOrDie(directory.path()).reset();
  EXPECT_FALSE(fs::exists(directory / "load/gone@3"));
  EXPECT_TRUE(fs::exists(directory / "load/lost+found"));
}

}  // namespace
}  // namespace engram
