// What a damaged drive may do to a store: rows fail, neighbours and other tables are served, and
// no wrong byte comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "storage/nvme/catalog_record.h"
#include "tests/unit/storage/nvme/damaged_files.h"
#include "tests/unit/storage/nvme/edit_catalog.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

// One file a layer: pages of it lie at multiples of 4,096.
StoreInternals OneChunk() { return StoreInternals(); }

std::vector<RowId> AllRows(const LayerSpec& layer) {
  std::vector<RowId> ids;
  for (uint64_t row = 0; row < layer.rows; ++row) ids.push_back(RowId{static_cast<uint32_t>(row)});
  return ids;
}

void FlipByte(const fs::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(offset));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
  ASSERT_TRUE(file.good());
}

class DamageTest : public testing::Test {
 protected:
  void LoadBoth() {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path(), OneChunk());
    ASSERT_TRUE(Load(*store, big_).ok());
    ASSERT_TRUE(Load(*store, other_).ok());
  }

  const TestDirectory directory_;
  const TableSpec big_ = MakeSpec("big", 1, {{1, 15 * 400 + 7, 264}}, 3);
  const TableSpec other_ = MakeSpec("other", 1, {{1, 15 * 50, 264}}, 4);
  const TableSpec next_ = MakeSpec("big", 2, {{1, 15 * 60, 264}}, 5);
};

TEST_F(DamageTest, FlippedBytesFailTheirPagesOnly) {
  LoadBoth();
  std::mt19937_64 random(TestSeed());
  const fs::path file = SstFiles(directory_.path())[0];
  std::set<uint64_t> pages;
  while (pages.size() < 5) pages.insert(random() % 400);
  for (const uint64_t page : pages) FlipByte(file, page * 4096 + random() % (15 * 264));

  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  auto reader = store->OpenLayer("big", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  std::vector<RowId> ids = AllRows(big_.layers[0]);
  std::shuffle(ids.begin(), ids.end(), random);
  const size_t failed =
      ReadAndCompare(**reader, big_, LayerId{1}, ids, [&](RowId row, const absl::Status& status) {
        return status.code() == absl::StatusCode::kDataLoss && pages.contains(Raw(row) / 15) &&
               Text(status).find("table big version 1 layer 1 page ") == 0 &&
               Text(status).find(file.filename().string()) != std::string::npos &&
               Text(status).find("offset") != std::string::npos;
      });
  EXPECT_EQ(failed, pages.size() * 15);
  ExpectWholeTable(*store, other_);
}

TEST_F(DamageTest, MissingFileFailsItsRowsAndOtherTablesAreServed) {
  LoadBoth();
  const fs::path file = SstFiles(directory_.path())[0];
  fs::remove(file);
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ASSERT_NE(store, nullptr);
  EXPECT_THAT(store->Describe(), HasSubstr("damaged: "));
  EXPECT_THAT(store->Describe(), HasSubstr(file.stem().string()));
  ExpectWholeTable(*store, other_);
  auto reader = store->OpenLayer("big", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(ReadAndCompare(**reader, big_, LayerId{1}, AllRows(big_.layers[0]),
                           [&](RowId, const absl::Status& status) {
                             return status.code() == absl::StatusCode::kUnavailable ||
                                    status.code() == absl::StatusCode::kDataLoss;
                           }),
            big_.layers[0].rows);
  // The way out: drop it, load it again.
  reader->reset();
  ASSERT_TRUE(store->Drop("big", VersionId{1}).ok());
  ASSERT_TRUE(Load(*store, big_).ok());
  ExpectWholeTable(*store, big_);
  store.reset();
  store = OpenOrDie(directory_.path());
  EXPECT_THAT(store->Describe(), testing::Not(HasSubstr("damaged")));
  ExpectWholeTable(*store, big_);
  ExpectWholeTable(*store, other_);
}

TEST_F(DamageTest, MissingFileOfALayerSparesItsOtherFiles) {
  const TableSpec spec = MakeSpec("m", 1, {{1, 20000, 264}});
  {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path());  // small chunks: many files
    ASSERT_TRUE(Load(*store, spec).ok());
    ASSERT_GT(store->List()[0].chunks.size(), 4u);
  }
  fs::remove(SstFiles(directory_.path())[0]);
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  const Chunk chunk = store->List()[0].chunks[0];
  const size_t failed =
      ReadAndCompare(**reader, spec, LayerId{1}, AllRows(spec.layers[0]),
                     [](RowId, const absl::Status& status) { return !status.ok(); });
  EXPECT_GT(failed, 0u);
  EXPECT_LE(failed, chunk.rows);
}

TEST_F(DamageTest, TruncatedFile) {
  LoadBoth();
  const fs::path file = SstFiles(directory_.path())[0];
  fs::resize_file(file, fs::file_size(file) / 2);
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ASSERT_NE(store, nullptr);
  ExpectWholeTable(*store, other_);
  auto reader = store->OpenLayer("big", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(ReadAndCompare(**reader, big_, LayerId{1}, {RowId{0}, RowId{6006}},
                           [](RowId, const absl::Status& status) {
                             return status.code() == absl::StatusCode::kDataLoss;
                           }),
            2u);
}

// The footer and the properties of such a file can be read.
TEST_F(DamageTest, DamagedIndexIsSaidUntilItIsGone) {
  LoadBoth();
  const TableSpec third = MakeSpec("third", 1, {{1, 15 * 20, 264}}, 5);
  {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path(), OneChunk());
    ASSERT_TRUE(Load(*store, third).ok());
  }
  const fs::path file = SstFiles(directory_.path())[0];
  ApplyDamage(file, Damage::kFlippedIndex, 401, 0);
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ASSERT_NE(store, nullptr);
  EXPECT_THAT(store->Describe(), HasSubstr("damaged: "));
  ExpectWholeTable(*store, big_);  // by their offsets, which need no index
  ASSERT_TRUE(store->Drop("third", VersionId{1}).ok());
  EXPECT_THAT(store->Describe(), HasSubstr("damaged: "));
  ASSERT_TRUE(store->Drop("big", VersionId{1}).ok());
  EXPECT_THAT(store->Describe(), testing::Not(HasSubstr("damaged")));
  ExpectWholeTable(*store, other_);
}

// As a restore does that mixes up its copies: nothing in the blocks of the two tells them apart.
TEST_F(DamageTest, FilesOfTwoVersionsExchanged) {
  LoadBoth();
  TableSpec next = big_;
  next.version = VersionId{2};
  next.checkpoint_digest = "5";
  fs::path files[2];
  {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path(), OneChunk());
    ASSERT_TRUE(Load(*store, next).ok());
    files[0] = FileOf(directory_.path(), big_, store->Find("big", VersionId{1})->chunks[0]);
    files[1] = FileOf(directory_.path(), next, store->Find("big", VersionId{2})->chunks[0]);
  }
  ASSERT_EQ(fs::file_size(files[0]), fs::file_size(files[1]));
  const fs::path aside = directory_ / "aside";
  fs::rename(files[0], aside);
  fs::rename(files[1], files[0]);
  fs::rename(aside, files[1]);

  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ASSERT_NE(store, nullptr);
  EXPECT_THAT(store->Describe(), HasSubstr("damaged: "));
  for (const TableSpec* spec : {&big_, static_cast<const TableSpec*>(&next)}) {
    auto reader = store->OpenLayer("big", spec->version, LayerId{1});
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(ReadAndCompare(**reader, *spec, LayerId{1}, AllRows(spec->layers[0]),
                             [](RowId, const absl::Status& status) {
                               return status.code() == absl::StatusCode::kDataLoss;
                             }),
              spec->layers[0].rows);
    const Chunk chunk = store->Find("big", spec->version)->chunks[0];
    EXPECT_EQ(store->CheckChunkFile("big", spec->version, chunk).code(),
              absl::StatusCode::kDataLoss);
  }
  ExpectWholeTable(*store, other_);
}

TEST_F(DamageTest, DamagedCatalogOpensNothing) {
  LoadBoth();
  for (const auto& entry : fs::directory_iterator(directory_ / "db")) {
    if (entry.path().filename().string().rfind("MANIFEST", 0) == 0) FlipByte(entry.path(), 40);
  }
  StoreOptions options;
  options.directory = directory_.path();
  const absl::Status status = Store::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(Text(status), HasSubstr(directory_.path()));
}

TEST_F(DamageTest, AnyFlippedByteAnywhereIsFoundOrHarmless) {
  LoadBoth();
  const TestDirectory copies;
  std::mt19937_64 random(TestSeed());
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory_ / "db")) {
    if (fs::file_size(entry) > 0) names.push_back(entry.path().filename().string());
  }
  for (int round = 0; round < 40; ++round) {
    const std::string copy = copies / std::to_string(round);
    fs::copy(directory_.path(), copy, fs::copy_options::recursive);
    const std::string& name = names[round % names.size()];
    const fs::path file = copy + "/db/" + name;
    const uint64_t offset = random() % fs::file_size(file);
    SCOPED_TRACE(name + " at " + std::to_string(offset));
    FlipByte(file, offset);
    StoreOptions options;
    options.directory = copy;
    const auto store = Store::Open(options);
    if (!store.ok()) continue;  // refused: nothing wrong is served
    EXPECT_EQ((*store)->List().size(), 2u);
    for (const TableSpec* spec : {&big_, &other_}) {
      auto reader = (*store)->OpenLayer(spec->name, VersionId{1}, LayerId{1});
      if (!reader.ok()) continue;
      ReadAndCompare(**reader, *spec, LayerId{1}, AllRows(spec->layers[0]),
                     [](RowId, const absl::Status& status) { return !status.ok(); });
    }
    fs::remove_all(copy);
  }
}

// Where the records of a log of RocksDB's begin: blocks of 32 KiB; checksum (4 bytes), length (2),
// type (1), payload.
std::vector<uint64_t> LogRecords(const std::string& log) {
  constexpr size_t kLogBlock = 32768;
  constexpr size_t kHeader = 7;
  std::vector<uint64_t> records;
  for (size_t at = 0; at + kHeader <= log.size();) {
    if (kLogBlock - at % kLogBlock < kHeader) {
      at += kLogBlock - at % kLogBlock;
      continue;
    }
    const size_t length = static_cast<uint8_t>(log[at + 4]) | static_cast<uint8_t>(log[at + 5])
                                                                  << 8;
    if (log[at + 6] == 0) break;
    records.push_back(at);
    at += kHeader + length;
  }
  return records;
}

// RocksDB takes a record whose length is too large for the end of the file, and would go on from
// what was there before it, and remove the files that came later.
TEST_F(DamageTest, AManifestThatSeemsToEndEarlyLosesNothing) {
  LoadBoth();
  {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path());
    ASSERT_TRUE(Load(*store, next_).ok());
    ASSERT_TRUE(store->Activate("big", VersionId{2}).ok());
  }
  const size_t files = SstFiles(directory_.path()).size();
  fs::path manifest;
  for (const auto& entry : fs::directory_iterator(directory_ / "db")) {
    if (entry.path().filename().string().rfind("MANIFEST", 0) == 0) manifest = entry.path();
  }
  std::ifstream in(manifest, std::ios::binary);
  const std::string log((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::vector<uint64_t> records = LogRecords(log);
  ASSERT_GT(records.size(), 5u);
  size_t refused = 0;
  const TestDirectory copies;
  for (const uint64_t at : records) {
    SCOPED_TRACE(at);
    const std::string copy = copies / std::to_string(at);
    fs::copy(directory_.path(), copy, fs::copy_options::recursive);
    FlipByte(copy + "/db/" + manifest.filename().string(), at + 5);
    StoreOptions options;
    options.directory = copy;
    const auto store = Store::Open(options);
    if (store.ok()) {
      EXPECT_TRUE((*store)->Find("big", VersionId{2})->active);
      for (const TableSpec* spec : {&big_, &other_, &next_}) ExpectWholeTable(**store, *spec);
    } else {
      ++refused;
      EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss) << store.status();
      EXPECT_THAT(Text(store.status()), HasSubstr(copy));
      EXPECT_EQ(SstFiles(copy).size(), files);
    }
    fs::remove_all(copy);
  }
  // Of all but the last few something was settled later.
  EXPECT_GT(refused, records.size() / 2);
}

TEST_F(DamageTest, ADamagedNoteOfWhatWasSettledIsNoReasonToRefuse) {
  LoadBoth();
  FlipByte(directory_ / "settled", 10);
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ExpectWholeTable(*store, big_);
  ASSERT_TRUE(Load(*store, next_).ok());
  store.reset();
  store = OpenOrDie(directory_.path());
  ExpectWholeTable(*store, next_);
}

TEST_F(DamageTest, ADatabaseThatIsGoneIsNoReasonToBeginAnew) {
  LoadBoth();
  fs::remove_all(directory_ / "db");
  StoreOptions options;
  options.directory = directory_.path();
  const absl::Status status = Store::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(Text(status), HasSubstr(directory_.path()));
}

TEST_F(DamageTest, MissingCurrentIsNoReasonToBeginAnew) {
  LoadBoth();
  fs::remove(directory_ / "db/CURRENT");
  StoreOptions options;
  options.directory = directory_.path();
  const absl::Status status = Store::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Text(status), HasSubstr("CURRENT"));
  EXPECT_FALSE(SstFiles(directory_.path()).empty());
}

TEST_F(DamageTest, DamagedRecordIsKeptAndTheOthersServed) {
  LoadBoth();
  const std::string key = TableKey("big", VersionId{1});
  EditCatalog(directory_.path(), key, "{\"format\":1, nonsense");
  const size_t files = SstFiles(directory_.path()).size();
  for (int restart = 0; restart < 2; ++restart) {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path());
    ASSERT_EQ(store->List().size(), 1u);
    ExpectWholeTable(*store, other_);
    for (const absl::Status& status :
         {store->Find("big", VersionId{1}).status(), store->BeginLoad(big_).status(),
          store->OpenLayer("big", VersionId{1}, LayerId{1}).status(),
          store->Activate("big", VersionId{1})}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_THAT(Text(status), HasSubstr(key));
    }
    EXPECT_GE(SstFiles(directory_.path()).size(), files);
  }
  // Only its own drop removes it.
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ASSERT_TRUE(store->Drop("big", VersionId{1}).ok());
  ASSERT_TRUE(Load(*store, big_).ok());
  ExpectWholeTable(*store, big_);
}

TEST_F(DamageTest, RecordOfAnotherReleaseIsLeftAlone) {
  LoadBoth();
  EditCatalog(directory_.path(), TableKey("big", VersionId{1}), "{\"format\":2}");
  EditCatalog(directory_.path(), "active/big", "{\"format\":2}");
  EditCatalog(directory_.path(), "quota/big", "{\"format\":2}");  // a kind that we do not know
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  const absl::Status status = store->Find("big", VersionId{1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), HasSubstr("format version 2"));
  // Not the first version of its table, as far as anybody can tell.
  const TableSpec next = MakeSpec("big", 2, {{1, 100, 264}});
  EXPECT_FALSE(Load(*store, next)->active);
}

TEST_F(DamageTest, DamagedChunkRecordMeansWritingItAgain) {
  const TableSpec spec = MakeSpec("m", 1, {{1, 20000, 264}});
  size_t chunks = 0;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    chunks = (*writer)->todo().size();
    ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
  }
  EditCatalog(directory_.path(), ChunkKey("m", VersionId{1}, {LayerId{1}, 0, 0, 0, ""}), "?");
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok());
  ASSERT_EQ((*writer)->todo().size(), 1u);
  EXPECT_EQ((*writer)->todo()[0].index, 0u);
  ASSERT_GT(chunks, 1u);
  ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
  ASSERT_TRUE((*writer)->Publish().ok());
  ExpectWholeTable(*store, spec);
}

// What follows a damaged record of RocksDB's log is not believed without it: the catalog opens as
// it was at one moment, and the load goes on from there.
TEST_F(DamageTest, ALoadGoesOnFromBeforeADamagedLogRecord) {
  constexpr uint64_t kLogBlock = 32768;
  constexpr size_t kDamaged = 2;
  const TableSpec spec = MakeSpec("m", 1, {{1, 20000, 264}});
  // RocksDB drops the rest of a block with the damaged record, so some must lie in a later one.
  std::vector<TestLayer> many;
  for (int32_t i = 0; i < 400; ++i) many.push_back({i, 100, 264});
  const TableSpec long_record = MakeSpec("long", 1, many);
  size_t chunks = 0;
  std::string damaged, last;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory_.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    chunks = (*writer)->todo().size();
    ASSERT_GT(chunks, kDamaged + 2);
    damaged = ChunkKey("m", VersionId{1}, (*writer)->todo()[kDamaged]);
    last = ChunkKey("m", VersionId{1}, (*writer)->todo().back());
    ASSERT_TRUE(WriteChunks(**writer, spec, kDamaged + 1).ok());
    writer->reset();
    ASSERT_TRUE(store->BeginLoad(long_record).ok());
    writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
  }
  size_t found = 0;
  for (const auto& entry : fs::directory_iterator(directory_ / "db")) {
    if (entry.path().extension() != ".log") continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string log((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    const size_t at = log.find(damaged);
    if (at == std::string::npos) continue;
    ++found;
    const size_t later = log.find(last);
    ASSERT_NE(later, std::string::npos);
    ASSERT_LT(at / kLogBlock, later / kLogBlock);
    FlipByte(entry.path(), at);
  }
  ASSERT_EQ(found, 1u);
  std::unique_ptr<Store> store = OpenOrDie(directory_.path());
  ASSERT_NE(store, nullptr);
  ASSERT_EQ(store->List().size(), 1u);
  auto writer = store->BeginLoad(spec);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_EQ((*writer)->todo().size(), chunks - kDamaged);
  for (size_t i = 0; i < chunks - kDamaged; ++i) {
    EXPECT_EQ((*writer)->todo()[i].index, kDamaged + i);
  }
  ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
  ASSERT_TRUE((*writer)->Publish().ok());
  ExpectWholeTable(*store, spec);
}

TEST_F(DamageTest, DamagedFileOfALoadIsWrittenAgain) {
  // Its first page, its last, and the footer: what RocksDB looks at when it ingests a file.
  const TableSpec spec = MakeSpec("m", 1, {{1, 20000, 264}});
  for (const char* where : {"first page", "last page", "footer"}) {
    SCOPED_TRACE(where);
    const TestDirectory directory;
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    auto writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    const uint64_t pages = ((*writer)->todo()[1].rows + 14) / 15;
    ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
    const std::string file = directory / "load/m@1/1-000001.sst";
    const std::string place = where;
    FlipByte(file, place == "footer"      ? fs::file_size(file) - 5
                   : place == "last page" ? (pages - 1) * 4096 + 100
                                          : 100);
    const absl::Status status = (*writer)->Publish().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(Text(status), HasSubstr("1-000001.sst"));
    writer->reset();
    writer = store->BeginLoad(spec);
    ASSERT_TRUE(writer.ok());
    ASSERT_EQ((*writer)->todo().size(), 1u);
    EXPECT_EQ((*writer)->todo()[0].index, 1u);
    ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
    ASSERT_TRUE((*writer)->Publish().ok());
    ExpectWholeTable(*store, spec);
  }
}

}  // namespace
}  // namespace engram
