#include "storage/nvme/catalog_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "storage/nvme/bulk_writer.h"
#include "tests/unit/storage/nvme/store_fixture.h"

namespace engram {
namespace {

using testing::HasSubstr;

CatalogRecord MakeRecord() {
  CatalogRecord record;
  record.table.spec = MakeSpec("table.a", 3, {{-1, 40, 264}, {14, 100000, 160}});
  for (const LayerSpec& layer : record.table.spec.layers) {
    record.geometry.push_back(ChoosePageGeometry(layer.row_bytes));
  }
  record.table.chunks = PlanChunks(record.table.spec, record.geometry, 1 << 20, 4 << 20);
  return record;
}

TEST(CatalogRecordTest, KeysNameTheirVersion) {
  const std::string key = TableKey("table.a", VersionId{3});
  EXPECT_EQ(key, "table/table.a/00000000000000000003");
  EXPECT_EQ(*ParseTableKey(key), (VersionName{"table.a", VersionId{3}}));
  EXPECT_EQ(FamilyName("table.a", VersionId{3}, LayerId{-1}), "table.a@3/-1");
  EXPECT_EQ(*ParseVersionLabel("table.a@3/-1"), (VersionName{"table.a", VersionId{3}}));
  EXPECT_EQ(*ParseVersionLabel("table.a@3"), (VersionName{"table.a", VersionId{3}}));
  EXPECT_EQ(ChunkKey("t", VersionId{2}, {LayerId{14}, 7, 0, 1, ""}),
            "chunk/t/00000000000000000002/14/000007");
  for (const char* text : {"", "t", "t@", "@3", "t@x", "default", "t@99999999999999999999999"}) {
    EXPECT_FALSE(ParseVersionLabel(text).ok()) << text;
  }
  EXPECT_FALSE(ParseTableKey("active/t").ok());
}

TEST(CatalogRecordTest, RoundTrip) {
  CatalogRecord record = MakeRecord();
  record.table.chunks[0].digest = "0123";
  const std::string key = TableKey("table.a", VersionId{3});
  const absl::StatusOr<CatalogRecord> read = DecodeTableRecord(key, EncodeTableRecord(record));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->table.spec, record.table.spec);
  EXPECT_EQ(read->table.state, TableState::kLoading);
  EXPECT_EQ(read->geometry, record.geometry);
  ASSERT_EQ(read->table.chunks.size(), record.table.chunks.size());
  EXPECT_EQ(read->table.chunks[0].digest, "0123");
  EXPECT_EQ(read->table.chunks[1].first, record.table.chunks[1].first);
}

TEST(CatalogRecordTest, AnotherFormatVersionSaysSo) {
  std::string text = EncodeTableRecord(MakeRecord());
  text.replace(text.find("\"format\":1"), 10, "\"format\":7");
  const auto status = DecodeTableRecord(TableKey("table.a", VersionId{3}), text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 7"));
  EXPECT_EQ(DecodeActiveRecord("active/t", R"({"format":2,"version":1})").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(CatalogRecordTest, DamageIsDataLossNamingTheKey) {
  const std::string key = TableKey("table.a", VersionId{3});
  const std::string good = EncodeTableRecord(MakeRecord());
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"),
                                  std::string("{\"format\":1}"), good.substr(0, good.size() / 2)}) {
    const absl::Status status = DecodeTableRecord(key, text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(key));
  }
  // Whole, but under another's key.
  EXPECT_EQ(DecodeTableRecord(TableKey("table.a", VersionId{4}), good).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodeActiveRecord("active/t", "7").status().code(), absl::StatusCode::kDataLoss);
}

TEST(CatalogRecordTest, ChunksMustCoverTheirLayers) {
  const std::string key = TableKey("table.a", VersionId{3});
  const auto decode = [&](const CatalogRecord& record) {
    return DecodeTableRecord(key, EncodeTableRecord(record)).status().code();
  };
  CatalogRecord gap = MakeRecord();
  gap.table.chunks.erase(gap.table.chunks.begin() + 1);
  EXPECT_EQ(decode(gap), absl::StatusCode::kDataLoss);
  CatalogRecord extra = MakeRecord();
  extra.table.chunks.push_back(extra.table.chunks.back());
  EXPECT_EQ(decode(extra), absl::StatusCode::kDataLoss);
  CatalogRecord no_pages = MakeRecord();
  no_pages.geometry[0].rows_per_page = 0;
  EXPECT_EQ(decode(no_pages), absl::StatusCode::kDataLoss);
  CatalogRecord undigested = MakeRecord();
  undigested.table.state = TableState::kPublished;
  undigested.table.table_digest = "0";
  EXPECT_EQ(decode(undigested), absl::StatusCode::kDataLoss);
}

TEST(CatalogRecordTest, ChunkRecordBelongsToItsRows) {
  const Chunk chunk{LayerId{1}, 2, 30, 15, "abc"};
  const std::string text = EncodeChunkRecord(chunk, 12345);
  const absl::StatusOr<ChunkRecord> record = DecodeChunkRecord("chunk/k", text, chunk);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->digest, "abc");
  EXPECT_EQ(record->file_bytes, 12345u);
  const Chunk other{LayerId{1}, 2, 30, 16, ""};
  EXPECT_EQ(DecodeChunkRecord("chunk/k", text, other).status().code(), absl::StatusCode::kDataLoss);
  const Chunk empty{LayerId{1}, 2, 30, 15, ""};
  EXPECT_EQ(DecodeChunkRecord("chunk/k", EncodeChunkRecord(empty, 1), chunk).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(CatalogRecordTest, FlippedBytesNeverCrash) {
  std::mt19937_64 random(TestSeed());
  const std::string key = TableKey("table.a", VersionId{3});
  const std::string good = EncodeTableRecord(MakeRecord());
  size_t refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    text[random() % text.size()] = static_cast<char>(random());
    refused += DecodeTableRecord(key, text).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 0u);
}

TEST(PlanChunksTest, WholePagesInOrderWithinBounds) {
  const TableSpec spec = MakeSpec("t", 1, {{0, 1, 65536}, {1, 1000003, 264}, {2, 15, 264}});
  std::vector<PageGeometry> geometry;
  for (const LayerSpec& layer : spec.layers)
    geometry.push_back(ChoosePageGeometry(layer.row_bytes));
  const std::vector<Chunk> chunks = PlanChunks(spec, geometry, 16 << 20, 512 << 20);
  size_t at = 0;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    uint64_t row = 0;
    for (uint32_t index = 0; row < spec.layers[i].rows; ++index, ++at) {
      ASSERT_LT(at, chunks.size());
      EXPECT_EQ(chunks[at].layer, spec.layers[i].id);
      EXPECT_EQ(chunks[at].index, index);
      EXPECT_EQ(chunks[at].first, row);
      EXPECT_EQ(chunks[at].first % geometry[i].rows_per_page, 0u);
      row += chunks[at].rows;
    }
    EXPECT_EQ(row, spec.layers[i].rows);
  }
  EXPECT_EQ(at, chunks.size());
  EXPECT_EQ(chunks[1].rows / 15, 8334u);  // 66,667 pages in 8 chunks of 32.6 MiB
}

}  // namespace
}  // namespace engram
