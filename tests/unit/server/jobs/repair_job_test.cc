// Repairing from a checkpoint: what is read back, what is rewritten, and which version it is.
#include "server/jobs/repair_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "server/jobs/verify_job.h"
#include "storage/checkpoint/row_source.h"
#include "storage/nvme/catalog_record.h"
#include "tests/integration/test_checkpoint.h"
#include "tests/unit/server/table_fixture.h"
#include "tests/unit/storage/nvme/edit_catalog.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RepairJobTest : public TableFixture {
 protected:
  void SetUp() override {
    TableFixture::SetUp();
    OpenTables(uint64_t{8} << 20);
    checkpoint_ = directory_ + "/checkpoint";
    fs::create_directory(checkpoint_);
    source_checkpoint_ = testing::WriteCheckpoint(checkpoint_, 200, 5);
  }

  absl::StatusOr<RepairResult> Repair(VersionId version = kActiveVersion) {
    return RunRepair(*tables_, Parameters(version), cancelled_, [this](const LoadStatus& status) {
      phases_.insert(status.phase);
      EXPECT_LE(status.rows_done, status.rows_total);
      EXPECT_LE(status.bytes_done, status.bytes_total);
      return proceed_;
    });
  }
  absl::StatusOr<LoadResult> Load(VersionId version = kActiveVersion) {
    return RunLoad(*tables_, Parameters(version), cancelled_,
                   [](const LoadStatus&) { return true; });
  }
  LoadParameters Parameters(VersionId version) const {
    return {.table = "t", .checkpoint = checkpoint_, .tensors = {}, .version = version};
  }
  VerifyStatus Verify() {
    const auto verified = RunVerify(*tables_, {.table = "t", .checkpoint = checkpoint_}, cancelled_,
                                    [](const VerifyStatus&) { return true; });
    EXPECT_TRUE(verified.ok()) << verified.status();
    return verified.ok() ? *verified : VerifyStatus();
  }

  // The files that hold rows, by the layer whose first page they begin with: one file a layer.
  fs::path FileOf(int layer) const {
    const std::vector<std::byte> row = source_checkpoint_.ExpectedRow(layer, 0);
    const std::string wanted(reinterpret_cast<const char*>(row.data()), row.size());
    for (const auto& entry : fs::directory_iterator(directory_ + "/data/db")) {
      std::string head(4096, '\0');
      std::ifstream(entry.path(), std::ios::binary).read(head.data(), 4096);
      if (head.find(wanted) != std::string::npos) return entry.path();
    }
    return {};
  }
  static void FlipByte(const fs::path& path, uint64_t offset) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
    ASSERT_TRUE(file.good()) << path;
  }

  const std::atomic<bool> cancelled_{false};
  bool proceed_ = true;
  std::set<LoadPhase> phases_;
  std::string checkpoint_;
  testing::TestCheckpoint source_checkpoint_;
};

TEST_F(RepairJobTest, AWholeTableIsReadAndLeftAlone) {
  ASSERT_TRUE(Load().ok());
  const auto result = Repair();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->finished_load);
  EXPECT_EQ(result->counts.chunks, 2u);
  EXPECT_EQ(result->counts.damaged_chunks, 0u);
  EXPECT_EQ(result->counts.rewritten_rows, 0u);
  EXPECT_THAT(result->counts.problems, IsEmpty());
  EXPECT_THAT(phases_, ElementsAre(LoadPhase::kVerify));
  EXPECT_TRUE(result->load.record.active);
}

TEST_F(RepairJobTest, OnlyTheDamagedChunkIsRewritten) {
  ASSERT_TRUE(Load().ok());
  FlipByte(FileOf(14), 4096 + 50);
  FlipByte(FileOf(14), 3 * 4096 + 50);
  const fs::path good = FileOf(1);

  const VerifyStatus found = Verify();
  EXPECT_EQ(found.bad_rows, 30u);
  EXPECT_EQ(found.rows_done, found.rows_total);
  ASSERT_EQ(found.problems.size(), 2u);  // one for each page, not for each row
  EXPECT_THAT(found.problems[0], HasSubstr("layer 14 rows 15 to 29: "));
  EXPECT_THAT(found.problems[0], HasSubstr(FileOf(14).stem().string()));
  EXPECT_THAT(found.problems[0], HasSubstr("offset"));
  EXPECT_THAT(found.problems[1], HasSubstr("layer 14 rows 45 to 59: "));

  const auto result = Repair();
  ASSERT_TRUE(result.ok()) << result.status();
  const uint64_t rows = source_checkpoint_.RowsOf(14);
  EXPECT_EQ(result->counts.damaged_chunks, 1u);
  EXPECT_EQ(result->counts.damaged_rows, 30u);
  EXPECT_EQ(result->counts.rewritten_chunks, 1u);
  EXPECT_EQ(result->counts.rewritten_rows, rows);
  EXPECT_EQ(result->counts.problems, found.problems);
  EXPECT_EQ(result->load.status.rows_done, rows);
  EXPECT_THAT(phases_, ElementsAre(LoadPhase::kVerify, LoadPhase::kRepair));
  EXPECT_TRUE(fs::exists(good));
  EXPECT_EQ(FileOf(1), good);
  EXPECT_EQ(Verify().bad_rows, 0u);
}

// Its unreadable rows are not taken for those of another checkpoint.
TEST_F(RepairJobTest, ALoadOfADamagedTableFindsItLoaded) {
  ASSERT_TRUE(Load().ok());
  FlipByte(FileOf(14), 4096 + 50);
  const auto again = Load();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->already_loaded);
  EXPECT_EQ(Verify().bad_rows, 15u);
}

TEST_F(RepairJobTest, ALostFileIsFoundWhileItsRowsAreStillServed) {
  ASSERT_TRUE(Load().ok());
  const fs::path lost = FileOf(1);
  fs::remove(lost);
  const VerifyStatus found = Verify();
  EXPECT_EQ(found.bad_rows, source_checkpoint_.RowsOf(1));
  ASSERT_EQ(found.problems.size(), 1u);
  EXPECT_THAT(found.problems[0], HasSubstr(lost.filename().string()));
  EXPECT_THAT(found.problems[0], HasSubstr("they can still be read"));
  ASSERT_TRUE(Repair().ok());
  EXPECT_EQ(Verify().bad_rows, 0u);
  Reopen(0);
  EXPECT_EQ(Verify().bad_rows, 0u);
}

// Every page matches its checksum and the file is whole: only the digest tells.
TEST_F(RepairJobTest, RowsOfAnotherDigestAreFound) {
  ASSERT_TRUE(Load().ok());
  CatalogRecord record;
  record.table = *store_->Find("t", VersionId{1});
  const auto layout = store_->Layout("t", VersionId{1});
  ASSERT_TRUE(layout.ok()) << layout.status();
  for (const LayerLayout& layer : *layout) {
    const uint32_t row_bytes = record.table.spec.FindLayer(layer.layer)->row_bytes;
    record.geometry.push_back({row_bytes, layer.rows_per_page, layer.block_bytes});
  }
  ASSERT_EQ(record.table.chunks.size(), 2u);
  Chunk& chunk = record.table.chunks[1];
  const std::string loaded = chunk.digest;
  char& digit = chunk.digest[3];
  digit = digit == '0' ? '1' : '0';
  record.table.table_digest = TableDigest(TableSpecToJson(record.table.spec), record.table.chunks);
  tables_.reset();
  store_.reset();
  EditCatalog(directory_ + "/data", TableKey("t", VersionId{1}), EncodeTableRecord(record));
  OpenStore();
  OpenTables(0);

  const VerifyStatus found = Verify();
  EXPECT_EQ(found.bad_rows, chunk.rows);
  EXPECT_THAT(found.problems,
              ElementsAre("layer 14 rows 0 to " + std::to_string(chunk.rows - 1) + ": digest " +
                          loaded + " is not the stored " + chunk.digest));
  const absl::Status refused = Repair().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("holds other rows"));
}

TEST_F(RepairJobTest, ADropEndsTheCheckAndIsNoDamage) {
  for (const bool verify : {true, false}) {
    SCOPED_TRACE(verify ? "verify" : "repair");
    ASSERT_TRUE(Load().ok());
    const auto version = (*tables_->Find("t", kActiveVersion))->spec().version;
    absl::Status dropped = absl::UnknownError("not begun");
    std::thread dropper;
    int blocks = 0;
    const auto drop = [&] {
      if (++blocks > 1) return true;
      dropper = std::thread([&] { dropped = tables_->DropVersion("t", version); });
      while (tables_->Find("t", version).ok()) std::this_thread::yield();
      return true;
    };
    const absl::Status ended =
        verify ? RunVerify(*tables_, {.table = "t", .checkpoint = ""}, cancelled_,
                           [&](const VerifyStatus&) { return drop(); })
                     .status()
               : RunRepair(*tables_, Parameters(version), cancelled_, [&](const LoadStatus&) {
                   return drop();
                 }).status();
    ASSERT_TRUE(dropper.joinable());
    dropper.join();
    EXPECT_TRUE(dropped.ok()) << dropped;
    EXPECT_TRUE(absl::IsNotFound(ended)) << ended;
    EXPECT_THAT(std::string(ended.message()), HasSubstr("version 1 was dropped"));
    EXPECT_EQ(blocks, 1);  // of the first of two chunks
  }
}

TEST_F(RepairJobTest, AFileThatDoesNotOpenIsNotReadPageByPage) {
  // More rows than one block of the check.
  fs::remove_all(checkpoint_);
  fs::create_directory(checkpoint_);
  source_checkpoint_ = testing::WriteCheckpoint(checkpoint_, 5000, 5);
  ASSERT_TRUE(Load().ok());
  tables_.reset();
  store_.reset();
  fs::resize_file(FileOf(14), 100000);
  OpenStore();
  OpenTables(0);
  const VerifyStatus found = Verify();
  EXPECT_EQ(found.bad_rows, source_checkpoint_.RowsOf(14));
  EXPECT_EQ(found.rows_done, found.rows_total);
  EXPECT_EQ(found.bytes_done, found.bytes_total);
  ASSERT_EQ(found.problems.size(), 1u);
  EXPECT_THAT(found.problems[0], HasSubstr("has 100000 bytes instead of"));
  ASSERT_TRUE(Repair().ok());
  EXPECT_EQ(Verify().bad_rows, 0u);
}

TEST_F(RepairJobTest, AnUnfinishedVersionIsLoadedToItsEnd) {
  auto source = OpenCheckpoint({.directory = checkpoint_, .tensors = {}});
  ASSERT_TRUE(source.ok()) << source.status();
  TableSpec spec = (*source)->spec();
  spec.name = "t";
  spec.version = VersionId{1};
  ASSERT_TRUE(store_->BeginLoad(spec, (*source)->token_map()).ok());
  const auto result = Repair();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->finished_load);
  EXPECT_FALSE(result->load.already_loaded);
  EXPECT_EQ(Verify().bad_rows, 0u);
}

TEST_F(RepairJobTest, StoppedItCanBeTakenUp) {
  ASSERT_TRUE(Load().ok());
  FlipByte(FileOf(1), 50);
  proceed_ = false;
  const absl::Status stopped = Repair().status();
  EXPECT_TRUE(absl::IsCancelled(stopped)) << stopped;
  EXPECT_EQ(Verify().bad_rows, 15u);
  proceed_ = true;
  EXPECT_TRUE(Repair().ok());
  EXPECT_EQ(Verify().bad_rows, 0u);
}

TEST_F(RepairJobTest, TheVersionThatHoldsTheCheckpoint) {
  EXPECT_TRUE(absl::IsNotFound(Repair().status()));
  ASSERT_TRUE(Load().ok());
  const std::string first = checkpoint_;
  checkpoint_ = directory_ + "/second";
  fs::create_directory(checkpoint_);
  const auto second = testing::WriteCheckpoint(checkpoint_, 200, 6);
  const absl::Status other = Repair().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  EXPECT_THAT(std::string(other.message()), HasSubstr("no version of table 't' holds"));
  ASSERT_TRUE(Load().ok());
  const auto result = Repair();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->load.record.spec.version, VersionId{2});
  EXPECT_TRUE(absl::IsNotFound(Repair(VersionId{3}).status()));
  // Asked for, a version is compared chunk by chunk: whole, there is nothing to take from anywhere.
  EXPECT_TRUE(Repair(VersionId{1}).ok());
  FlipByte(FileOf(1), 50);
  const absl::Status wrong = Repair(VersionId{1}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong)) << wrong;
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("holds other rows"));
  checkpoint_ = first;
  EXPECT_TRUE(Repair(VersionId{1}).ok());
}

}  // namespace
}  // namespace engram
