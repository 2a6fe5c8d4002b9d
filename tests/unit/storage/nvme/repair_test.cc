// RepairChunk: whatever became of a chunk's file, it is written anew from the same rows, readers go
// on meanwhile, all other files stay as they are, and a crash leaves no wrong byte.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/file_system.h>

#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <thread>

#include "storage/nvme/page_read_counters.h"
#include "tests/unit/storage/nvme/damaged_files.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kRowsPerPage = 15;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

std::vector<RowId> RowsOf(const Chunk& chunk) {
  std::vector<RowId> ids;
  for (uint64_t i = 0; i < chunk.rows; ++i) {
    ids.push_back(RowId{static_cast<uint32_t>(chunk.first + i)});
  }
  return ids;
}

absl::Status RepairFrom(Store& store, const TableSpec& spec, const TableSpec& source,
                        const Chunk& chunk) {
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  return store.RepairChunk(spec.name, spec.version, chunk, RowGenerator{source}, cancelled, rows);
}

absl::Status Repair(Store& store, const TableSpec& spec, const Chunk& chunk) {
  return RepairFrom(store, spec, spec, chunk);
}

// RocksDB puts a file in by linking it into its own directory. Refuses that while `refuse` is set.
class NoLinks : public rocksdb::FileSystemWrapper {
 public:
  NoLinks(std::shared_ptr<rocksdb::FileSystem> base, const bool* refuse)
      : FileSystemWrapper(std::move(base)), refuse_(refuse) {}
  const char* Name() const override { return "NoLinks"; }
  rocksdb::IOStatus LinkFile(const std::string& from, const std::string& to,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
    if (*refuse_) return rocksdb::IOStatus::IOError(from, "no links now");
    return FileSystemWrapper::LinkFile(from, to, options, debug);
  }

 private:
  const bool* const refuse_;
};

class RepairTest : public testing::Test {
 protected:
  // A table of many chunks and its neighbour; small chunks.
  void LoadBoth() {
    std::unique_ptr<Store> store = OpenOrDie(data_);
    ASSERT_NE(store, nullptr);
    ASSERT_TRUE(Load(*store, spec_).ok());
    ASSERT_TRUE(Load(*store, other_).ok());
    chunks_ = store->Find("m", VersionId{1})->chunks;
    ASSERT_GT(chunks_.size(), 6u);
  }
  void DamageChunk(const Chunk& chunk, Damage damage) {
    ApplyDamage(FileOf(data_, spec_, chunk), damage, (chunk.rows + kRowsPerPage - 1) / kRowsPerPage,
                2);
  }
  std::unique_ptr<LayerReader> Open(Store& store) {
    auto reader = store.OpenLayer("m", VersionId{1}, LayerId{1});
    EXPECT_TRUE(reader.ok()) << reader.status();
    return reader.ok() ? *std::move(reader) : nullptr;
  }
  // The data directory as a crash leaves it when the old file is out and the new one not yet in.
  std::string CopyOfAnInterruptedRepair(const Chunk& chunk) {
    std::string copy;
    StoreInternals internals = SmallChunks();
    internals.on_step = [&](const char* step) {
      if (std::string(step) != "damaged file out") return;
      copy = directory_ / "copy";
      fs::copy(data_, copy, fs::copy_options::recursive);
    };
    std::unique_ptr<Store> store = OpenOrDie(data_, internals);
    EXPECT_TRUE(Repair(*store, spec_, chunk).ok());
    return copy;
  }
  // Some rows of the chunk fail, no wrong one comes back. Only those of a damaged index are all
  // served: pages are read by their offsets, without it.
  void ExpectDamaged(LayerReader& reader, const Chunk& chunk,
                     Damage damage = Damage::kFlippedData) {
    const size_t failed =
        ReadAndCompare(reader, spec_, chunk.layer, RowsOf(chunk),
                       [](RowId, const absl::Status& status) { return !status.ok(); });
    EXPECT_EQ(failed > 0, damage != Damage::kFlippedIndex) << failed;
  }

  const TestDirectory directory_;
  const std::string data_ = directory_ / "data";
  const TableSpec spec_ = MakeSpec("m", 1, {{1, 12007, 264}, {14, 3000, 264}}, 3);
  const TableSpec other_ = MakeSpec("other", 1, {{1, 15 * 50, 264}}, 4);
  std::vector<Chunk> chunks_;
};

class RepairKindTest : public RepairTest, public testing::WithParamInterface<Damage> {};

TEST_P(RepairKindTest, DamagedFilesAreReplacedAndNoOthers) {
  LoadBoth();
  // The first chunk, two neighbours in the middle, and the last of the other layer.
  const std::vector<Chunk> damaged = {chunks_.back(), chunks_[3], chunks_[2], chunks_[0]};
  for (const Chunk& chunk : damaged) DamageChunk(chunk, GetParam());
  std::unique_ptr<Store> store = OpenOrDie(data_);
  ASSERT_NE(store, nullptr);
  std::unique_ptr<LayerReader> before = Open(*store);
  const auto files = FileIdentities(data_);
  ExpectWholeTable(*store, other_);

  for (const Chunk& chunk : damaged) {
    const bool in_data = GetParam() == Damage::kFlippedData;
    const absl::Status check = store->CheckChunkFile("m", VersionId{1}, chunk);
    EXPECT_EQ(check.ok(), in_data) << check;
    if (!in_data) {
      EXPECT_THAT(Text(check), HasSubstr(".sst"));
    }
    if (chunk.layer == LayerId{1}) ExpectDamaged(*before, chunk, GetParam());
    ASSERT_TRUE(Repair(*store, spec_, chunk).ok());
    EXPECT_TRUE(store->CheckChunkFile("m", VersionId{1}, chunk).ok());
    if (chunk.layer == LayerId{1}) ExpectRows(*before, spec_, LayerId{1}, RowsOf(chunk));
  }
  ExpectWholeTable(*store, spec_);
  ExpectWholeTable(*store, other_);
  EXPECT_THAT(store->Describe(), Not(HasSubstr("damaged")));
  EXPECT_THAT(before->Usage().note, Not(HasSubstr("damaged")));
  EXPECT_FALSE(fs::exists(data_ + "/load/m@1"));
  size_t kept = 0;
  const auto now = FileIdentities(data_);
  for (const auto& [name, identity] : files) {
    if (!now.contains(name)) continue;
    EXPECT_EQ(now.at(name), identity) << name;
    ++kept;
  }
  const size_t lost = GetParam() == Damage::kMissing ? 0 : damaged.size();
  EXPECT_EQ(kept, files.size() - lost);
  EXPECT_EQ(now.size(), kept + damaged.size());

  before.reset();
  store.reset();
  store = OpenOrDie(data_);
  EXPECT_THAT(store->Describe(), Not(HasSubstr("damaged")));
  ExpectWholeTable(*store, spec_);
}

INSTANTIATE_TEST_SUITE_P(Kinds, RepairKindTest, testing::ValuesIn(kEveryDamage),
                         [](const testing::TestParamInfo<Damage>& info) {
                           return DamageName(info.param);
                         });

TEST_F(RepairTest, DamageWhileTheStoreIsOpen) {
  LoadBoth();
  std::unique_ptr<Store> store = OpenOrDie(data_);
  const std::unique_ptr<LayerReader> reader = Open(*store);
  DamageChunk(chunks_[1], Damage::kFlippedData);
  DamageChunk(chunks_[4], Damage::kMissing);
  ExpectDamaged(*reader, chunks_[1], Damage::kFlippedData);
  // What is open can be read on, but a restart would not find it.
  ExpectRows(*reader, spec_, LayerId{1}, RowsOf(chunks_[4]));
  EXPECT_FALSE(store->CheckChunkFile("m", VersionId{1}, chunks_[4]).ok());
  ASSERT_TRUE(Repair(*store, spec_, chunks_[4]).ok());
  ASSERT_TRUE(Repair(*store, spec_, chunks_[1]).ok());
  ExpectRows(*reader, spec_, LayerId{1}, RowsOf(chunks_[1]));
  DamageChunk(chunks_[5], Damage::kTruncated);
  ExpectDamaged(*reader, chunks_[5]);
  ASSERT_TRUE(Repair(*store, spec_, chunks_[5]).ok());
  ExpectWholeTable(*store, spec_);
}

// A reader that kept the replaced file would serve its rows all the same, by reading each damaged
// page twice, and the space of the file would not come back.
TEST_F(RepairTest, ReadersLetGoOfTheReplacedFile) {
  LoadBoth();
  std::unique_ptr<Store> store = OpenOrDie(data_);
  PageReadCounters counters;
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1}, &counters);
  ASSERT_TRUE(reader.ok()) << reader.status();
  DamageChunk(chunks_[3], Damage::kFlippedData);
  ExpectDamaged(**reader, chunks_[3]);
  EXPECT_GT(counters.failed.load(), 0u);
  ASSERT_TRUE(Repair(*store, spec_, chunks_[3]).ok());
  counters.failed = 0;
  ExpectRows(**reader, spec_, LayerId{1}, RowsOf(chunks_[3]));
  EXPECT_EQ(counters.failed.load(), 0u);
  EXPECT_EQ(counters.retried.load(), 0u);
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the fd that lists the directory
    EXPECT_THAT(fs::read_symlink(entry, gone).string(), Not(EndsWith(".sst (deleted)")));
  }
}

TEST_F(RepairTest, EverythingLostIsRepairedFromTheEnd) {
  LoadBoth();
  for (const Chunk& chunk : chunks_) DamageChunk(chunk, Damage::kMissing);
  std::unique_ptr<Store> store = OpenOrDie(data_);
  for (size_t i = chunks_.size(); i-- > 0;) {
    const absl::Status status = Repair(*store, spec_, chunks_[i]);
    ASSERT_TRUE(status.ok()) << status;
  }
  ExpectWholeTable(*store, spec_);
  EXPECT_THAT(store->Describe(), Not(HasSubstr("damaged")));
}

TEST_F(RepairTest, ChunkBeforeADamagedOneHasToWait) {
  LoadBoth();
  DamageChunk(chunks_[2], Damage::kFlippedData);
  DamageChunk(chunks_[3], Damage::kZeroedFooter);
  std::unique_ptr<Store> store = OpenOrDie(data_);
  const auto files = FileIdentities(data_);
  const absl::Status early = Repair(*store, spec_, chunks_[2]);
  EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(early), AllOf(HasSubstr("layer 1 chunk 2"), HasSubstr("behind it first")));
  EXPECT_EQ(FileIdentities(data_), files);
  EXPECT_TRUE(Repair(*store, spec_, chunks_[3]).ok());
  EXPECT_TRUE(Repair(*store, spec_, chunks_[2]).ok());
  ExpectWholeTable(*store, spec_);
}

TEST_F(RepairTest, OtherRowsAreRefusedAndNothingIsChanged) {
  LoadBoth();
  DamageChunk(chunks_[2], Damage::kFlippedData);
  std::unique_ptr<Store> store = OpenOrDie(data_);
  const auto files = FileIdentities(data_);
  TableSpec changed = spec_;
  changed.checkpoint_digest = "77";
  const absl::Status status = RepairFrom(*store, spec_, changed, chunks_[2]);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), AllOf(HasSubstr("holds other rows"), HasSubstr(chunks_[2].digest)));
  EXPECT_EQ(FileIdentities(data_), files);
  EXPECT_FALSE(fs::exists(data_ + "/load/m@1"));
  ExpectDamaged(*Open(*store), chunks_[2]);
  EXPECT_TRUE(Repair(*store, spec_, chunks_[2]).ok());
  ExpectWholeTable(*store, spec_);
}

TEST_F(RepairTest, RefusalsAndErrorsOfTheSource) {
  LoadBoth();
  std::unique_ptr<Store> store = OpenOrDie(data_);
  const auto files = FileIdentities(data_);
  Chunk shifted = chunks_[1];
  shifted.first += kRowsPerPage;
  EXPECT_EQ(Repair(*store, spec_, shifted).code(), absl::StatusCode::kInvalidArgument);
  Chunk none = chunks_[1];
  none.index = 99;
  EXPECT_EQ(Repair(*store, spec_, none).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Repair(*store, MakeSpec("m", 9, {{1, 10, 264}}), chunks_[0]).code(),
            absl::StatusCode::kNotFound);

  const TableSpec loading = MakeSpec("m", 2, {{1, 12007, 264}}, 3);
  ASSERT_TRUE(store->BeginLoad(loading).ok());
  EXPECT_EQ(Repair(*store, loading, chunks_[0]).code(), absl::StatusCode::kFailedPrecondition);

  std::atomic<bool> cancelled{true};
  std::atomic<uint64_t> rows{0};
  EXPECT_EQ(store->RepairChunk("m", VersionId{1}, chunks_[0], RowGenerator{spec_}, cancelled, rows)
                .code(),
            absl::StatusCode::kCancelled);
  cancelled = false;
  absl::Status dropped, repaired;
  const auto failing = [&](LayerId, uint64_t, uint64_t, absl::Span<std::byte>) {
    // The version is in use meanwhile.
    dropped = store->Drop("m", VersionId{1});
    repaired = Repair(*store, spec_, chunks_[1]);
    return absl::UnavailableError("the checkpoint's drive is gone");
  };
  EXPECT_EQ(Text(store->RepairChunk("m", VersionId{1}, chunks_[0], failing, cancelled, rows)),
            "the checkpoint's drive is gone");
  EXPECT_EQ(dropped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(dropped), HasSubstr("loaded or repaired right now"));
  EXPECT_EQ(repaired.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(FileIdentities(data_), files);
  ExpectWholeTable(*store, spec_);
}

// What a crash at each step leaves, as a copy of the directory; then what the next open makes of
// it.
TEST_F(RepairTest, CrashesBetweenTheSteps) {
  LoadBoth();
  DamageChunk(chunks_[2], Damage::kFlippedData);
  DamageChunk(chunks_[5], Damage::kMissing);
  std::map<std::string, std::string> copies;
  {
    StoreInternals internals = SmallChunks();
    internals.on_step = [&](const char* step) {
      const std::string name = std::to_string(copies.size()) + " " + step;
      copies[name] = directory_ / name;
      fs::copy(data_, copies[name], fs::copy_options::recursive);
    };
    std::unique_ptr<Store> store = OpenOrDie(data_, internals);
    ASSERT_TRUE(Repair(*store, spec_, chunks_[5]).ok());
    ASSERT_TRUE(Repair(*store, spec_, chunks_[2]).ok());
  }
  ASSERT_EQ(copies.size(), 6u);
  for (const auto& [name, path] : copies) {
    SCOPED_TRACE(name);
    std::unique_ptr<Store> store = OpenOrDie(path);
    ASSERT_NE(store, nullptr);
    const bool written = name.find("file written") != std::string::npos;
    const std::unique_ptr<LayerReader> reader = Open(*store);
    for (const size_t damaged : {size_t{5}, size_t{2}}) {
      // Before the swap of a chunk it is as it was; from the removal of its file on it is whole.
      const int step = std::stoi(name);
      const bool whole = damaged == 5 ? step >= 1 : step >= 4;
      if (whole) {
        ExpectRows(*reader, spec_, LayerId{1}, RowsOf(chunks_[damaged]));
      } else {
        ExpectDamaged(*reader, chunks_[damaged]);
      }
      EXPECT_EQ(store->CheckChunkFile("m", VersionId{1}, chunks_[damaged]).ok(),
                whole || damaged == 2);
    }
    EXPECT_EQ(written, std::stoi(name) % 3 == 0);
    EXPECT_FALSE(fs::exists(path + "/load/m@1"));
    ExpectWholeTable(*store, other_);
    ASSERT_TRUE(Repair(*store, spec_, chunks_[5]).ok());
    ASSERT_TRUE(Repair(*store, spec_, chunks_[2]).ok());
    ExpectWholeTable(*store, spec_);
  }
}

// A chunk that has no file any more, and a staged one that was not proved right: it stays missing.
TEST_F(RepairTest, AnUncheckedFileIsNeverPutIn) {
  LoadBoth();
  const std::string copy = CopyOfAnInterruptedRepair(chunks_[2]);
  ASSERT_FALSE(copy.empty());
  for (const auto& entry : fs::directory_iterator(copy + "/load/m@1")) {
    fs::rename(entry.path(), entry.path().string() + ".new");
  }
  std::unique_ptr<Store> store = OpenOrDie(copy);
  const std::unique_ptr<LayerReader> reader = Open(*store);
  EXPECT_EQ(ReadAndCompare(*reader, spec_, LayerId{1}, RowsOf(chunks_[2]),
                           [](RowId, const absl::Status& status) {
                             return status.code() == absl::StatusCode::kDataLoss;
                           }),
            chunks_[2].rows);
  EXPECT_EQ(store->CheckChunkFile("m", VersionId{1}, chunks_[2]).code(),
            absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Repair(*store, spec_, chunks_[2]).ok());
  ExpectRows(*reader, spec_, LayerId{1}, RowsOf(chunks_[2]));
}

// A start without room to put it in keeps the only copy there is; so does the repair of another
// chunk.
TEST_F(RepairTest, AStagedFileStaysUntilItIsIn) {
  LoadBoth();
  const std::string copy = CopyOfAnInterruptedRepair(chunks_[2]);
  ASSERT_FALSE(copy.empty());
  {
    StoreInternals full = SmallChunks();
    full.headroom_bytes = UINT64_MAX;
    std::unique_ptr<Store> store = OpenOrDie(copy, full);
    EXPECT_EQ(store->CheckChunkFile("m", VersionId{1}, chunks_[2]).code(),
              absl::StatusCode::kDataLoss);
    EXPECT_EQ(Repair(*store, spec_, chunks_[5]).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_TRUE(fs::exists(copy + "/load/m@1"));
  std::unique_ptr<Store> store = OpenOrDie(copy);
  ExpectRows(*Open(*store), spec_, LayerId{1}, RowsOf(chunks_[2]));
  EXPECT_FALSE(fs::exists(copy + "/load/m@1"));
}

// No crash is needed for the staged file to be the only copy.
TEST_F(RepairTest, AStagedFileStaysWhenItCannotBePutIn) {
  LoadBoth();
  DamageChunk(chunks_[2], Damage::kFlippedData);
  bool refuse = false;
  StoreInternals internals = SmallChunks();
  internals.wrap = [&](std::shared_ptr<rocksdb::FileSystem> base) {
    return std::make_shared<NoLinks>(std::move(base), &refuse);
  };
  internals.on_step = [&](const char* step) {
    if (std::string(step) == "damaged file out") refuse = true;
  };
  {
    std::unique_ptr<Store> store = OpenOrDie(data_, internals);
    ASSERT_NE(store, nullptr);
    const absl::Status status = Repair(*store, spec_, chunks_[2]);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(Text(status), HasSubstr("no links now"));
    EXPECT_EQ(store->CheckChunkFile("m", VersionId{1}, chunks_[2]).code(),
              absl::StatusCode::kDataLoss);
    EXPECT_TRUE(fs::exists(data_ + "/load/m@1/1-000002.sst"));
  }
  refuse = false;
  // Nobody repairs it again, and the checkpoint may be gone.
  std::unique_ptr<Store> store = OpenOrDie(data_, internals);
  ASSERT_NE(store, nullptr);
  ExpectWholeTable(*store, spec_);
  EXPECT_TRUE(store->CheckChunkFile("m", VersionId{1}, chunks_[2]).ok());
  EXPECT_FALSE(fs::exists(data_ + "/load/m@1"));
}

// Readers at work all the while: rows of the damaged page fail until the swap, no other row ever
// does.
TEST_F(RepairTest, ReadersGoOnMeanwhile) {
  LoadBoth();
  std::unique_ptr<Store> store = OpenOrDie(data_);
  const std::unique_ptr<LayerReader> reader = Open(*store);
  const std::unique_ptr<LayerReader> second = Open(*store);
  const Chunk& chunk = chunks_[3];
  DamageChunk(chunk, Damage::kFlippedData);
  const size_t files = SstFiles(data_).size();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> batches{0};
  const uint64_t seed = TestSeed();
  const auto read = [&](LayerReader& through, uint64_t salt) {
    std::mt19937_64 random(seed + salt);
    while (!stop) {
      std::vector<RowId> ids;
      for (int i = 0; i < 64; ++i) {
        const bool inside = random() % 2 == 0;
        const uint64_t row =
            inside ? chunk.first + random() % chunk.rows : random() % spec_.layers[0].rows;
        ids.push_back(RowId{static_cast<uint32_t>(row)});
      }
      ReadAndCompare(through, spec_, LayerId{1}, ids, [&](RowId row, const absl::Status&) {
        return Raw(row) / kRowsPerPage == chunk.first / kRowsPerPage + 2;
      });
      ++batches;
    }
  };
  std::thread one([&] { read(*reader, 1); });
  std::thread two([&] { read(*second, 2); });
  // The same chunk again and again: each is a swap under the readers' hands.
  for (int round = 0; round < 20; ++round) {
    const uint64_t seen = batches;
    const absl::Status status = Repair(*store, spec_, chunk);
    EXPECT_TRUE(status.ok()) << status;
    while (batches < seen + 4) std::this_thread::yield();
  }
  // The space of the files that were replaced is given back, busy as they were.
  EXPECT_EQ(SstFiles(data_).size(), files);
  stop = true;
  one.join();
  two.join();
  ExpectRows(*reader, spec_, LayerId{1}, RowsOf(chunk));
  ExpectWholeTable(*store, spec_);
}

TEST_F(RepairTest, DroppingTheDamagedVersionTakesTheNoteAway) {
  LoadBoth();
  DamageChunk(chunks_[2], Damage::kMissing);
  std::unique_ptr<Store> store = OpenOrDie(data_);
  EXPECT_THAT(store->Describe(), HasSubstr("damaged: "));
  ASSERT_TRUE(store->Drop("m", VersionId{1}).ok());
  EXPECT_THAT(store->Describe(), Not(HasSubstr("damaged")));
}

TEST_F(RepairTest, LayoutTellsPagesAndBytes) {
  LoadBoth();
  std::unique_ptr<Store> store = OpenOrDie(data_);
  const auto layout = store->Layout("m", VersionId{1});
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->size(), 2u);
  uint64_t bytes = 0;
  for (size_t i = 0; i < 2; ++i) {
    const LayerLayout& layer = (*layout)[i];
    EXPECT_EQ(layer.layer, spec_.layers[i].id);
    EXPECT_EQ(layer.rows_per_page, kRowsPerPage);
    EXPECT_EQ(layer.block_bytes, 4096u);
    bytes += layer.disk_bytes;
  }
  uint64_t on_disk = 0;
  for (const Chunk& chunk : chunks_) on_disk += fs::file_size(FileOf(data_, spec_, chunk));
  EXPECT_EQ(bytes, on_disk);
  EXPECT_EQ(store->Layout("m", VersionId{2}).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(store->BeginLoad(MakeSpec("m", 2, {{1, 100, 160}})).ok());
  const auto loading = store->Layout("m", VersionId{2});
  ASSERT_TRUE(loading.ok());
  EXPECT_EQ((*loading)[0].rows_per_page, 25u);
  EXPECT_EQ((*loading)[0].disk_bytes, 0u);
}

}  // namespace
}  // namespace engram
