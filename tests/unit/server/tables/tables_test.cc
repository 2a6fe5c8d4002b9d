#include "server/tables/tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "storage/nvme/catalog_record.h"
#include "storage/nvme/store_internal.h"
#include "tests/unit/server/table_fixture.h"
#include "tests/unit/storage/nvme/edit_catalog.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

uint64_t DramCapacity(const std::vector<TableSnapshot>& tables) {
  uint64_t bytes = 0;
  for (const TableSnapshot& table : tables) {
    for (const LayerSnapshot& layer : table.layers) {
      bytes += layer.tiers[static_cast<size_t>(TierKind::kDram)].usage.capacity_bytes;
    }
  }
  return bytes;
}

class TablesTest : public TableFixture {
 protected:
  // The version that answers, or the error.
  absl::StatusOr<uint64_t> AnsweringVersion(const std::string& name, VersionId version) {
    const std::string ids = Bytes({3, 1000, 77});
    auto lookup = Lookup::Start(*tables_, pool_, {},
                                {.table = name, .version = version, .layers = {{LayerId{1}, ids}}});
    if (!lookup.ok()) return lookup.status();
    if (!(*lookup)->ReadMemory()) (*lookup)->ReadStorage();
    if (const absl::Status status = (*lookup)->Finish(); !status.ok()) return status;
    EXPECT_TRUE(RowsAreRight(**lookup));
    (*lookup)->Warm();
    return Raw((*lookup)->version());
  }

  // Looks up random ones of the first `rows` rows until `stop`, and checks every byte.
  void KeepReading(const std::string& name, uint32_t rows, int seed, const std::atomic<bool>& stop,
                   std::atomic<uint64_t>& answers) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    while (!stop) {
      std::vector<uint32_t> ids(64);
      for (uint32_t& id : ids) id = static_cast<uint32_t>(random() % rows);
      const std::string bytes = Bytes(ids);
      auto lookup =
          Lookup::Start(*tables_, pool_, {},
                        {.table = name, .layers = {{LayerId{1}, bytes}, {LayerId{14}, bytes}}});
      ASSERT_TRUE(lookup.ok()) << lookup.status();
      if (!(*lookup)->ReadMemory()) (*lookup)->ReadStorage();
      ASSERT_TRUE((*lookup)->Finish().ok());
      ASSERT_TRUE(RowsAreRight(**lookup));
      (*lookup)->Warm();
      ++answers;
    }
  }
};

TEST_F(TablesTest, FirstVersionIsActiveLaterOnesWait) {
  OpenTables(uint64_t{4} << 20);
  Load("a", 1, 2000);
  Load("a", 2, 2100);
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 1u);
  EXPECT_EQ(*AnsweringVersion("a", VersionId{2}), 2u);
  ASSERT_TRUE(tables_->Activate("a", VersionId{2}).ok());
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 2u);
  const absl::Status missing = tables_->Activate("a", VersionId{3});
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("version 3"));
  Reopen(uint64_t{4} << 20);
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 2u);
  EXPECT_EQ(*AnsweringVersion("a", VersionId{1}), 1u);
}

TEST_F(TablesTest, AVersionAddedLateDoesNotUndoAnActivation) {
  OpenTables(0);
  // Published, and active as the first one, but not yet added when the next one overtakes it.
  std::unique_ptr<Tables> tables = std::move(tables_);
  Load("a", 1, 2000);
  tables_ = std::move(tables);
  const auto first = store_->Find("a", VersionId{1});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(first->active);
  Load("a", 2, 2000);
  ASSERT_TRUE(tables_->Activate("a", VersionId{2}).ok());
  ASSERT_TRUE(tables_->Add(*first).ok());
  EXPECT_EQ(*AnsweringVersion("a", VersionId{1}), 1u);
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 2u);
  ASSERT_TRUE(tables_->DropVersion("a", VersionId{1}).ok());
  EXPECT_TRUE(absl::IsNotFound(tables_->Add(*first)));
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 2u);
}

// A load may add its version after that was dropped, loaded again and added by the other load.
TEST_F(TablesTest, AVersionThatIsOpenIsNotOpenedAgain) {
  constexpr uint64_t kBudget = uint64_t{1} << 20;
  OpenTables(kBudget);
  Load("a", 1, 20000);
  const auto record = store_->Find("a", VersionId{1});
  ASSERT_TRUE(record.ok()) << record.status();
  const std::shared_ptr<const OpenTable> open = *tables_->Find("a", kActiveVersion);
  ASSERT_TRUE(tables_->Add(*record).ok());
  EXPECT_EQ(*tables_->Find("a", kActiveVersion), open);
  // Its stacks keep their shares of DRAM, and give them back.
  tables_->SetDramBudget(kBudget / 2);
  EXPECT_LE(tables_->DramBytes(), kBudget / 2);
  EXPECT_GT(tables_->DramBytes(), kBudget / 4);
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 1u);
}

TEST_F(TablesTest, DropsOneVersionOrAll) {
  OpenTables(uint64_t{4} << 20);
  Load("a", 1, 2000);
  Load("a", 2, 2000);
  Load("b", 1, 2000);
  const absl::Status dropped = tables_->DropVersion("a", VersionId{1});
  ASSERT_TRUE(dropped.ok()) << dropped;
  const absl::Status no_active = AnsweringVersion("a", kActiveVersion).status();
  EXPECT_EQ(no_active.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(no_active.message()), HasSubstr("activate"));
  EXPECT_EQ(*AnsweringVersion("a", VersionId{2}), 2u);
  // 0 stands for the active version elsewhere, and for nothing here.
  EXPECT_EQ(tables_->DropVersion("a", kActiveVersion).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*AnsweringVersion("a", VersionId{2}), 2u);
  const auto rest = tables_->DropTable("a");
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(*rest, ElementsAre(VersionId{2}));
  EXPECT_EQ(AnsweringVersion("a", VersionId{2}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(tables_->DropTable("a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*AnsweringVersion("b", kActiveVersion), 1u);
  Reopen(0);
  EXPECT_EQ(*AnsweringVersion("b", kActiveVersion), 1u);
  EXPECT_EQ(store_->List().size(), 1u);
}

TEST_F(TablesTest, WhileAVersionIsLoadedTheTableIsNotDropped) {
  OpenTables(0);
  Load("a", 1, 2000);
  Load("a", 2, 2000);
  auto writer = store_->BeginLoad(Spec("a", 3, 2000));
  ASSERT_TRUE(writer.ok()) << writer.status();
  const absl::Status refused = tables_->DropTable("a").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("version 3 is being loaded"));
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 1u);
  EXPECT_EQ(*AnsweringVersion("a", VersionId{2}), 2u);
  EXPECT_EQ(store_->List().size(), 3u);
  const absl::Status loading = tables_->DropVersion("a", VersionId{3});
  EXPECT_EQ(loading.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(loading.message()), HasSubstr("version 3 is being loaded"));
  EXPECT_TRUE(tables_->DropVersion("a", VersionId{2}).ok());
  writer->reset();
  const auto dropped = tables_->DropTable("a");
  ASSERT_TRUE(dropped.ok()) << dropped.status();
  EXPECT_THAT(*dropped, ElementsAre(VersionId{1}, VersionId{3}));
}

TEST_F(TablesTest, WhileAVersionIsRepairedTheTableIsNotDropped) {
  OpenTables(0);
  Load("a", 1, 2000);
  Load("a", 2, 2000);
  absl::Status refused;
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> written{0};
  const Chunk chunk = store_->Find("a", VersionId{2})->chunks.back();
  const absl::Status stopped = store_->RepairChunk(
      "a", VersionId{2}, chunk,
      [&](LayerId, uint64_t, uint64_t, absl::Span<std::byte>) {
        refused = tables_->DropTable("a").status();
        return absl::CancelledError("enough");
      },
      cancelled, written);
  EXPECT_TRUE(absl::IsCancelled(stopped)) << stopped;
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 1u);
  EXPECT_EQ(*AnsweringVersion("a", VersionId{2}), 2u);
}

TEST_F(TablesTest, ADropThatFailsHalfWaySaysWhatIsGone) {
  constexpr uint64_t kBudget = uint64_t{1} << 20;
  std::unique_ptr<BulkWriter> late;  // begins between the drops
  StoreInternals internals;
  internals.on_step = [&](absl::string_view step) {
    if (step != "removed from the catalog" || late != nullptr) return;
    auto writer = store_->BeginLoad(Spec("a", 3, 2000));
    ASSERT_TRUE(writer.ok()) << writer.status();
    late = *std::move(writer);
  };
  store_.reset();
  auto store = engram::OpenStore({.directory = directory_ + "/data"}, internals);
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
  OpenTables(kBudget);
  Load("a", 1, 20000);
  Load("a", 2, 20000);
  Load("b", 1, 20000);
  ASSERT_TRUE(store_->BeginLoad(Spec("a", 3, 2000)).ok());  // interrupted
  const absl::Status failed = tables_->DropTable("a").status();
  EXPECT_EQ(failed.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(failed.message()),
              HasSubstr("of table 'a' version 1, version 2 are dropped already"));
  ASSERT_EQ(store_->List().size(), 2u);
  EXPECT_EQ(store_->List()[0].spec.version, VersionId{3});
  // What they had of the memory is b's.
  EXPECT_GT(DramCapacity(tables_->Snapshot()), kBudget / 2);
  EXPECT_EQ(*AnsweringVersion("b", kActiveVersion), 1u);
  late.reset();
}

TEST_F(TablesTest, AVersionWithADamagedRecordIsDroppedByItsNumber) {
  OpenTables(0);
  for (const char* record : {"{\"format\":1, nonsense", "{\"format\":2}"}) {
    SCOPED_TRACE(record);
    Load("a", 1, 2000);
    Load("a", 2, 2000);
    tables_.reset();
    store_.reset();
    EditCatalog(directory_ + "/data", TableKey("a", VersionId{2}), record);
    OpenStore();
    OpenTables(0);
    ASSERT_EQ(store_->List().size(), 1u);
    EXPECT_FALSE(store_->BeginLoad(Spec("a", 2, 2000)).ok());
    const absl::Status missing = tables_->DropVersion("a", VersionId{3});
    EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(missing.message()), HasSubstr("there is no table 'a' version 3: "));
    const absl::Status dropped = tables_->DropVersion("a", VersionId{2});
    ASSERT_TRUE(dropped.ok()) << dropped;
    EXPECT_EQ(*AnsweringVersion("a", kActiveVersion), 1u);
    Load("a", 2, 2000);
    EXPECT_EQ(*AnsweringVersion("a", VersionId{2}), 2u);
    ASSERT_TRUE(tables_->DropTable("a").ok());
  }
}

TEST_F(TablesTest, DramBudgetHoldsAcrossChanges) {
  constexpr uint64_t kBudget = uint64_t{1} << 20;
  OpenTables(kBudget);
  Load("a", 1, 20000);
  EXPECT_LE(DramCapacity(tables_->Snapshot()), kBudget);
  EXPECT_GT(DramCapacity(tables_->Snapshot()), kBudget / 2);
  Load("b", 1, 20000);
  const std::vector<TableSnapshot> two = tables_->Snapshot();
  EXPECT_LE(DramCapacity(two), kBudget);
  for (const TableSnapshot& table : two) {
    EXPECT_GT(table.layers[0].tiers[1].usage.capacity_bytes, kBudget / 8);
  }
  ASSERT_TRUE(tables_->DropTable("a").ok());
  EXPECT_LE(DramCapacity(tables_->Snapshot()), kBudget);
  EXPECT_GT(DramCapacity(tables_->Snapshot()), kBudget / 2);
}

TEST_F(TablesTest, TheBudgetChangesUnderLoad) {
  OpenTables(uint64_t{24} << 20);
  Load("a", 1, 30000);  // 15 MiB
  Load("b", 1, 50000);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> answers{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t) {
    readers.emplace_back([&, t] { KeepReading(t == 0 ? "a" : "b", 30000, t, stop, answers); });
  }
  // From nothing at all to enough for all rows.
  for (const uint64_t kib : {24000, 12000, 20000, 300, 64000, 0, 9000, 1, 10000, 22000}) {
    const uint64_t before = answers;
    tables_->SetDramBudget(kib << 10);
    EXPECT_EQ(tables_->dram_budget_bytes(), kib << 10);
    EXPECT_LE(DramCapacity(tables_->Snapshot()), kib << 10);
    EXPECT_EQ(DramCapacity(tables_->Snapshot()), tables_->DramBytes());
    // All of it is put to use, unless it holds hardly a set, or more than all rows.
    if (kib > 1000 && kib < 50000) {
      EXPECT_GT(tables_->DramBytes(), (kib << 10) * 8 / 10);
    }
    while (answers < before + 20 && !::testing::Test::HasFailure()) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

// What a layer had stays when another budget needs no other layout.
TEST_F(TablesTest, ASmallerBudgetKeepsRows) {
  OpenTables(uint64_t{16} << 20);
  Load("a", 1, 60000);
  ASSERT_TRUE(tables_->Find("a", kActiveVersion).ok());
  const auto rows_held = [&] {
    return tables_->Snapshot()[0].layers[0].tiers[static_cast<size_t>(TierKind::kDram)].usage.rows;
  };
  std::vector<uint32_t> ids(4000);
  for (uint32_t i = 0; i < ids.size(); ++i) ids[i] = i * 7;
  const std::string bytes = Bytes(ids);
  const auto look_up = [&] {
    auto lookup =
        Lookup::Start(*tables_, pool_, {}, {.table = "a", .layers = {{LayerId{1}, bytes}}});
    ASSERT_TRUE(lookup.ok()) << lookup.status();
    if (!(*lookup)->ReadMemory()) (*lookup)->ReadStorage();
    ASSERT_TRUE((*lookup)->Finish().ok());
    ASSERT_TRUE(RowsAreRight(**lookup));
    (*lookup)->Warm();
  };
  for (int i = 0; i < 3; ++i) look_up();
  const uint64_t before = rows_held();
  ASSERT_GT(before, 3900u);
  tables_->SetDramBudget(uint64_t{12} << 20);
  EXPECT_GT(rows_held(), before / 2);
  EXPECT_LT(rows_held(), before);
  look_up();
}

TEST_F(TablesTest, SwitchingUnderLoadNeverMixesVersions) {
  OpenTables(uint64_t{2} << 20);
  Load("a", 1, 3000);
  Load("a", 2, 3000);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> answers{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t) {
    readers.emplace_back([&, t] { KeepReading("a", 3000, t, stop, answers); });
  }
  for (uint64_t round = 0; round < 20; ++round) {
    const uint64_t before = answers;
    ASSERT_TRUE(tables_->Activate("a", VersionId{1 + round % 2}).ok());
    while (answers < before + 5 && !::testing::Test::HasFailure()) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

TEST_F(TablesTest, AnOpenLookupFinishesOnTheVersionThatIsDropped) {
  OpenTables(0);
  Load("a", 1, 3000);
  const std::string ids = Bytes({1, 2, 2999});
  auto lookup = Lookup::Start(*tables_, pool_, {}, {.table = "a", .layers = {{LayerId{1}, ids}}});
  ASSERT_TRUE(lookup.ok());
  std::thread dropper([this] { EXPECT_TRUE(tables_->DropTable("a").ok()); });
  while (tables_->Find("a", kActiveVersion).ok()) std::this_thread::yield();
  (*lookup)->ReadStorage();
  EXPECT_TRUE((*lookup)->Finish().ok());
  EXPECT_TRUE(RowsAreRight(**lookup));
  lookup->reset();
  dropper.join();
}

}  // namespace
}  // namespace engram
