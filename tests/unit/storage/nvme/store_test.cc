#include "storage/nvme/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <thread>

#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

using testing::HasSubstr;

const std::vector<TestLayer> kTwoLayers = {{1, 20011, 264}, {14, 9001, 264}};

std::string Text(const absl::Status& status) { return std::string(status.message()); }

TEST(StoreTest, EveryRowComesBack) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  const std::unique_ptr<Store> store = OpenOrDie(directory.path());
  const absl::StatusOr<TableRecord> record = Load(*store, spec);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->state, TableState::kPublished);
  EXPECT_TRUE(record->active);
  EXPECT_EQ(record->table_digest.size(), 32u);
  EXPECT_GT(record->chunks.size(), 8u);
  for (const Chunk& chunk : record->chunks) EXPECT_EQ(chunk.digest.size(), 32u);
  ExpectWholeTable(*store, spec);
}

TEST(StoreTest, OddRowSizes) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("odd", 1,
                                  {{0, 9000, 1},
                                   {1, 1500, 160},
                                   {2, 900, 320},
                                   {3, 700, 512},
                                   {4, 300, 1024},
                                   {5, 3, 4063},
                                   {6, 3, 4064},
                                   {7, 40, 20000},
                                   {8, 5, 65536},
                                   {9, 1, 264}});
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, spec).ok());
  ExpectWholeTable(*store, spec);
  const auto reader = store->OpenLayer("odd", VersionId{1}, LayerId{8});
  ASSERT_TRUE(reader.ok());
  const TierUsage usage = (*reader)->Usage();
  EXPECT_TRUE(usage.on);
  EXPECT_EQ(usage.rows, 5u);
  EXPECT_EQ(usage.bytes, 5u * 65536);
  EXPECT_GE(usage.capacity_bytes, 5u * 69632);  // one aligned block a row
  EXPECT_LE(usage.capacity_bytes, 6u * 69632);
}

TEST(StoreTest, PagesAreOneAlignedBlockEach) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{0, 15 * 1000, 264}});
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, spec).ok());
  // Page k of a file lies at k × 4,096, so its first row can be found in the raw bytes.
  std::vector<std::byte> row(264);
  size_t found = 0;
  for (const auto& path : SstFiles(directory.path())) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    for (uint64_t page = 0; page < 1000; ++page) {
      FillRow(1, LayerId{0}, page * 15, 264, row.data());
      const size_t at = bytes.find(std::string(reinterpret_cast<char*>(row.data()), row.size()));
      if (at == std::string::npos) continue;
      ++found;
      EXPECT_LE(at % 4096 + 15 * 264, 4096u);
    }
  }
  EXPECT_EQ(found, 1000u);
}

TEST(StoreTest, ReopenServesTheSame) {
  const TestDirectory directory;
  const TableSpec a = MakeSpec("a", 1, kTwoLayers, 7);
  const TableSpec b = MakeSpec("b", 5, {{2, 3000, 160}}, 8);
  std::string digest;
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    digest = Load(*store, a)->table_digest;
    ASSERT_TRUE(Load(*store, b).ok());
    ExpectWholeTable(*store, b);
  }
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  const std::vector<TableRecord> tables = store->List();
  ASSERT_EQ(tables.size(), 2u);
  EXPECT_EQ(tables[0].spec, a);
  EXPECT_EQ(tables[0].table_digest, digest);
  EXPECT_TRUE(tables[0].active);
  EXPECT_EQ(tables[1].spec, b);
  ExpectWholeTable(*store, a);
  ExpectWholeTable(*store, b);
}

TEST(StoreTest, VersionsAreSwitchedAndDroppedUnderTheirReaders) {
  const TestDirectory directory;
  const TableSpec one = MakeSpec("m", 1, kTwoLayers, 1);
  const TableSpec two = MakeSpec("m", 2, kTwoLayers, 2);
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, one).ok());
  EXPECT_FALSE(Load(*store, two)->active);
  EXPECT_TRUE(store->Find("m", VersionId{1})->active);
  ASSERT_TRUE(store->Activate("m", VersionId{2}).ok());
  EXPECT_FALSE(store->Find("m", VersionId{1})->active);
  EXPECT_TRUE(store->Find("m", VersionId{2})->active);

  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{1});
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(store->Drop("m", VersionId{1}).ok());
  EXPECT_EQ(store->Find("m", VersionId{1}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store->OpenLayer("m", VersionId{1}, LayerId{1}).status().code(),
            absl::StatusCode::kNotFound);
  std::mt19937_64 random(TestSeed());
  for (const auto& ids : ShuffledBatches(one.layers[0], random)) {
    ExpectRows(**reader, one, LayerId{1}, ids);
  }
  ExpectWholeTable(*store, two);

  // The reader outlives even the store; its files go with it.
  store.reset();
  ExpectRows(**reader, one, LayerId{1}, {RowId{0}, RowId{20010}});
  reader->reset();
  store = OpenOrDie(directory.path());
  ASSERT_EQ(store->List().size(), 1u);
  EXPECT_TRUE(store->List()[0].active);
  uint64_t bytes = 0;
  for (const auto& path : SstFiles(directory.path())) bytes += std::filesystem::file_size(path);
  EXPECT_LT(bytes, two.bytes() * 5 / 4);
  ExpectWholeTable(*store, two);
}

TEST(StoreTest, DroppingTheActiveVersionLeavesNone) {
  const TestDirectory directory;
  const std::vector<TestLayer> layers = {{0, 100, 264}};
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, MakeSpec("m", 1, layers, 1)).ok());
  ASSERT_TRUE(Load(*store, MakeSpec("m", 2, layers, 2)).ok());
  ASSERT_TRUE(store->Drop("m", VersionId{1}).ok());
  EXPECT_FALSE(store->Find("m", VersionId{2})->active);
  EXPECT_FALSE(Load(*store, MakeSpec("m", 3, layers, 3))->active);  // not the first
  store.reset();
  store = OpenOrDie(directory.path());
  for (const TableRecord& table : store->List()) EXPECT_FALSE(table.active);
  // A table whose versions are all gone begins anew, also with a number it had before.
  ASSERT_TRUE(store->Drop("m", VersionId{2}).ok());
  ASSERT_TRUE(store->Drop("m", VersionId{3}).ok());
  const TableSpec again = MakeSpec("m", 1, layers, 9);
  EXPECT_TRUE(Load(*store, again)->active);
  ExpectWholeTable(*store, again);
}

TEST(StoreTest, WhatIsNotThereIsNotFound) {
  const TestDirectory directory;
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  EXPECT_TRUE(store->List().empty());
  EXPECT_EQ(store->Find("m", VersionId{1}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store->Drop("m", VersionId{1}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store->Activate("m", VersionId{1}).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Load(*store, MakeSpec("m", 1, {{3, 10, 8}})).ok());
  const absl::Status no_layer = store->OpenLayer("m", VersionId{1}, LayerId{4}).status();
  EXPECT_EQ(no_layer.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Text(no_layer), HasSubstr("has no layer 4"));
}

TEST(StoreTest, BadSpecsAreRefused) {
  const TestDirectory directory;
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  const auto code = [&](const TableSpec& spec) { return store->BeginLoad(spec).status().code(); };
  EXPECT_EQ(code(MakeSpec("a/b", 1, {{0, 1, 8}})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MakeSpec("m", 0, {{0, 1, 8}})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MakeSpec("m", 1, {})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MakeSpec("m", 1, {{0, 0, 8}})), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(store->List().empty());
  EXPECT_EQ(Store::Open(StoreOptions()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(StoreTest, AVersionKeepsItsTokenMap) {
  const TestDirectory directory;
  const TokenMap map = TokenMap::Create({0, 1, 0, 2}).value();
  TableSpec spec = MakeSpec("m", 1, {{0, 20, 264}});
  const auto code = [](const auto& result) { return result.status().code(); };
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    EXPECT_EQ(code(store->BeginLoad(spec, &map)), absl::StatusCode::kInvalidArgument);
    spec.token_map_size = map.size();
    spec.token_map_digest = map.digest();
    const auto missing = store->BeginLoad(spec);
    EXPECT_EQ(code(missing), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Text(missing.status()), HasSubstr(map.digest()));
    const TokenMap other = TokenMap::Create({0, 1, 2, 2}).value();
    EXPECT_EQ(code(store->BeginLoad(spec, &other)), absl::StatusCode::kInvalidArgument);
    // Begun, left and begun again.
    ASSERT_TRUE(store->BeginLoad(spec, &map).ok());
    auto writer = store->BeginLoad(spec, &map);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(WriteChunks(**writer, spec, SIZE_MAX).ok());
    ASSERT_TRUE((*writer)->Publish().ok());
    TableSpec plain = MakeSpec("n", 1, {{0, 20, 264}});
    ASSERT_TRUE(Load(*store, plain).ok());
  }
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  const auto kept = store->ReadTokenMap("m", VersionId{1});
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_TRUE(kept->has_value());
  EXPECT_EQ((*kept)->bytes(), map.bytes());
  const auto none = store->ReadTokenMap("n", VersionId{1});
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(none->has_value());
  EXPECT_EQ(code(store->ReadTokenMap("m", VersionId{2})), absl::StatusCode::kNotFound);
  ASSERT_TRUE(store->Drop("m", VersionId{1}).ok());
  EXPECT_EQ(code(store->ReadTokenMap("m", VersionId{1})), absl::StatusCode::kNotFound);
}

TEST(StoreTest, RowsPastTheEndAreFailedAndNeverRead) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{0, 20, 264}});
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, spec).ok());
  auto reader = store->OpenLayer("m", VersionId{1}, LayerId{0});
  ASSERT_TRUE(reader.ok());
  // 20 to 29 would lie in the last page, behind its end; 30 and on in no page at all.
  const std::vector<RowId> ids = {RowId{19}, RowId{20}, RowId{29}, RowId{30}, RowId{0xFFFFFFFE}};
  EXPECT_EQ(ReadAndCompare(**reader, spec, LayerId{0}, ids,
                           [](RowId row, const absl::Status& status) {
                             return Raw(row) >= 20 && Text(status).find("row") != std::string::npos;
                           }),
            4u);
}

TEST(StoreTest, OneDirectoryOneProcess) {
  const TestDirectory directory;
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  StoreOptions options;
  options.directory = directory.path();
  const absl::Status status = Store::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), HasSubstr(directory.path()));
  EXPECT_THAT(Text(status), HasSubstr("stop that one"));
  store.reset();
  EXPECT_TRUE(Store::Open(options).ok());
}

TEST(StoreTest, DirectoryThatIsAFile) {
  const TestDirectory directory;
  std::ofstream(directory / "file") << "x";
  StoreOptions options;
  options.directory = directory / "file";
  EXPECT_EQ(Store::Open(options).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(StoreTest, EveryWayOfReadingServesTheSame) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, {{1, 5000, 264}});
  {
    std::unique_ptr<Store> store = OpenOrDie(directory.path());
    ASSERT_TRUE(Load(*store, spec).ok());
  }
  for (const bool uring : {false, true}) {
    for (const bool direct : {false, true}) {
      StoreOptions options;
      options.directory = directory.path();
      options.use_io_uring = uring;
      options.use_direct_io = direct;
      options.read_threads = 2;
      auto store = Store::Open(options);
      ASSERT_TRUE(store.ok()) << store.status();
      const std::string text = (*store)->Describe();
      EXPECT_EQ(text.find("pread (io_uring turned off)") != std::string::npos, !uring) << text;
      EXPECT_EQ(text.find("buffered I/O (direct I/O turned off)") != std::string::npos, !direct)
          << text;
      ExpectWholeTable(**store, spec);
    }
  }
}

TEST(StoreTest, ManyReadersAtOnce) {
  const TestDirectory directory;
  const TableSpec spec = MakeSpec("m", 1, kTwoLayers);
  std::unique_ptr<Store> store = OpenOrDie(directory.path());
  ASSERT_TRUE(Load(*store, spec).ok());
  auto shared = store->OpenLayer("m", VersionId{1}, LayerId{1});
  ASSERT_TRUE(shared.ok());
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 6; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(TestSeed() + thread);
      for (int round = 0; round < 20; ++round) {
        std::vector<RowId> ids(1 + random() % 1500);
        for (RowId& id : ids) id = RowId{static_cast<uint32_t>(random() % 20011)};
        ExpectRows(**shared, spec, LayerId{1}, ids);
      }
    });
  }
  // Meanwhile other versions come and go.
  for (uint64_t version = 2; version < 5; ++version) {
    const TableSpec other = MakeSpec("m", version, {{1, 2000, 264}}, version);
    ASSERT_TRUE(Load(*store, other).ok());
    ASSERT_TRUE(store->Activate("m", VersionId{version}).ok());
    ASSERT_TRUE(store->Drop("m", VersionId{version}).ok());
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace engram
