// kill -9 in the middle of repairs: whatever the moment, no wrong byte is served afterwards, what
// was whole and not under repair stays whole, and the next repair heals everything.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>

#include "tests/fault/nvme_load_child.h"
#include "tests/unit/storage/nvme/damaged_files.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

class NvmeRepairKillTest : public testing::Test {
 protected:
  void SetUp() override {
    std::unique_ptr<Store> store = OpenOrDie(loaded_);
    ASSERT_NE(store, nullptr);
    ASSERT_TRUE(Load(*store, spec_).ok());
    chunks_ = store->Find(spec_.name, spec_.version)->chunks;
    store.reset();
    const std::string copy = Copy("undisturbed");
    const ChildResult result = RunChild(copy, 0, "repair");
    ASSERT_EQ(result.exit_code, 0);
    ASSERT_GT(result.events, 50u);
    events_ = result.events;
  }

  std::string Copy(const std::string& name) {
    const std::string copy = directory_ / name;
    fs::copy(loaded_, copy, fs::copy_options::recursive);
    return copy;
  }

  // Rows of damaged chunks may fail; all others, and all that do not fail, are right.
  void ExpectNoWrongByte(Store& store, const std::vector<Chunk>& damaged) {
    const auto may_fail = [&](LayerId layer) {
      return [&damaged, layer](RowId row, const absl::Status& status) {
        for (const Chunk& chunk : damaged) {
          const bool in = chunk.layer == layer && Raw(row) >= chunk.first &&
                          Raw(row) < chunk.first + chunk.rows;
          if (in && !status.ok()) return true;
        }
        return false;
      };
    };
    std::mt19937_64 random(TestSeed());
    for (const LayerSpec& layer : spec_.layers) {
      auto reader = store.OpenLayer(spec_.name, spec_.version, layer.id);
      ASSERT_TRUE(reader.ok()) << reader.status();
      for (const std::vector<RowId>& ids : ShuffledBatches(layer, random)) {
        ReadAndCompare(**reader, spec_, layer.id, ids, may_fail(layer.id));
      }
    }
  }

  const TestDirectory directory_;
  const std::string loaded_ = directory_ / "loaded";
  const TableSpec spec_ = KillSpec();
  std::vector<Chunk> chunks_;
  uint64_t events_ = 0;
};

TEST_F(NvmeRepairKillTest, WholeTableStaysWholeAtEveryPoint) {
  // Every sixth of the moments, which of them by the seed. The file under repair may be out; then
  // the open puts the new one in.
  for (uint64_t at = 1 + TestSeed() % 6; at <= events_; at += 6) {
    SCOPED_TRACE("killed at " + std::to_string(at));
    const std::string data = Copy(std::to_string(at));
    const ChildResult killed = RunChild(data, at, "repair");
    ASSERT_TRUE(killed.killed || killed.exit_code == 0);
    std::unique_ptr<Store> store = OpenOrDie(data);
    ASSERT_NE(store, nullptr);
    ExpectWholeTable(*store, spec_);
    store.reset();
    fs::remove_all(data);
  }
}

TEST_F(NvmeRepairKillTest, DamagedTableIsHealedAfterAnyNumberOfKills) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const std::string data = Copy("damaged" + std::to_string(round));
    std::vector<Chunk> damaged;
    for (const Chunk& chunk : chunks_) {
      if (random() % 2 == 0) damaged.push_back(chunk);
    }
    for (const Chunk& chunk : damaged) {
      const uint64_t rows_per_page = spec_.FindLayer(chunk.layer)->row_bytes == 264 ? 15 : 25;
      ApplyDamage(FileOf(data, spec_, chunk), kEveryDamage[random() % 5],
                  (chunk.rows + rows_per_page - 1) / rows_per_page, 0);
    }
    for (int kill = 0; kill < 2; ++kill) {
      const ChildResult killed = RunChild(data, 1 + random() % events_, "repair");
      ASSERT_TRUE(killed.killed || killed.exit_code == 0);
      std::unique_ptr<Store> store = OpenOrDie(data);
      ASSERT_NE(store, nullptr);
      ExpectNoWrongByte(*store, damaged);
    }
    ASSERT_EQ(RunChild(data, 0, "repair").exit_code, 0);
    std::unique_ptr<Store> store = OpenOrDie(data);
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(store->Describe().find("damaged"), std::string::npos);
    ExpectWholeTable(*store, spec_);
    store.reset();
    fs::remove_all(data);
  }
}

}  // namespace
}  // namespace engram
