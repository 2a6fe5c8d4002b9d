#include "server/jobs/adopted_check.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <thread>

#include "storage/dram/segment.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

class AdoptedCheckTest : public TableFixture {
 protected:
  static constexpr uint64_t kRows = 12000;
  static constexpr uint64_t kBudget = uint64_t{16} << 20;  // room for all

  void SetUp() override {
    TableFixture::SetUp();
    std::string path = "/dev/shm/engram_adopted_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    shm_dir_ = path;
  }
  void TearDown() override {
    tables_.reset();
    segments_.reset();
    std::filesystem::remove_all(shm_dir_);
    TableFixture::TearDown();
  }

  // What a daemon does when it starts, but for its threads.
  void Start(uint64_t budget = kBudget) {
    auto segments = SegmentStore::Open(shm_dir_, "s");
    ASSERT_TRUE(segments.ok()) << segments.status();
    segments_ = *std::move(segments);
    auto tables =
        Tables::Open(store_.get(), {.dram_budget_bytes = budget, .segments = segments_.get()});
    ASSERT_TRUE(tables.ok()) << tables.status();
    tables_ = *std::move(tables);
  }
  // Its end, and the next one's start.
  void Restart(uint64_t budget = kBudget) {
    tables_.reset();
    segments_.reset();
    Start(budget);
  }

  TierStack& Stack(int32_t layer, uint64_t version = 1) {
    table_ = *tables_->Find("t", VersionId{version});
    return *table_->FindLayer(LayerId{layer});
  }

  // Brings every `step`th row of both layers into DRAM.
  void Fill(uint32_t step) {
    for (const int32_t layer : {1, 14}) {
      std::vector<RowId> ids;
      for (uint32_t id = 0; id < kRows; id += step) ids.push_back(RowId{id});
      Stack(layer).Fill(ids);
    }
    table_.reset();
  }

  TierSnapshot Dram(int32_t layer) {
    const TierSnapshot dram = Stack(layer).Snapshot()[static_cast<size_t>(TierKind::kDram)];
    table_.reset();
    return dram;
  }

  // Writes another byte into this row where DRAM has it.
  void Spoil(int32_t layer, uint32_t id) {
    std::vector<std::byte> row(kRowBytes);
    DeriveRow(layer, id, 1, absl::MakeSpan(row));
    const std::string wanted(reinterpret_cast<const char*>(row.data()), row.size());
    for (const auto& entry : std::filesystem::recursive_directory_iterator(shm_dir_)) {
      if (!entry.path().filename().string().starts_with("segment-")) continue;
      std::ifstream in(entry.path(), std::ios::binary);
      const std::string bytes(std::istreambuf_iterator<char>(in), {});
      const size_t at = bytes.find(wanted);
      if (at == std::string::npos) continue;
      std::fstream out(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      out.seekp(static_cast<std::streamoff>(at));
      out.put(static_cast<char>(~wanted[0]));
      ASSERT_TRUE(out.good());
      return;
    }
    FAIL() << "row " << id << " is nowhere";
  }

  std::string shm_dir_;
  std::unique_ptr<SegmentStore> segments_;
  std::shared_ptr<const OpenTable> table_;
};

TEST_F(AdoptedCheckTest, ComparesAllThatWasTakenOver) {
  Load("t", 1, kRows);
  Start();
  Fill(2);
  Restart();
  EXPECT_EQ(tables_->StacksWithAdoptedRows().size(), 2u);
  AdoptedCheck check(tables_.get());
  check.WaitUntilDone();
  for (const int32_t layer : {1, 14}) {
    EXPECT_EQ(Dram(layer).checked_rows, kRows / 2);
    EXPECT_EQ(Dram(layer).mismatched_rows, 0u);
    EXPECT_EQ(Dram(layer).usage.rows, kRows / 2);
  }
}

TEST_F(AdoptedCheckTest, HasNothingToDoWhereNothingWasTakenOver) {
  Load("t", 1, kRows);
  Start();
  Fill(1);
  AdoptedCheck check(tables_.get());
  check.WaitUntilDone();
  EXPECT_EQ(Dram(14).checked_rows, 0u);
  EXPECT_EQ(Dram(14).usage.rows, kRows);
}

TEST_F(AdoptedCheckTest, AWrongRowIsTheEndOfItsLayersTier) {
  Load("t", 1, kRows);
  for (const uint64_t budget : {kBudget, uint64_t{4} << 20}) {
    Start(budget);
    Fill(1);
    const uint64_t held = Dram(1).usage.rows;
    const uint64_t capacity = Dram(14).usage.capacity_bytes;
    uint32_t spoilt = kRows - 1;
    std::vector<std::byte> row(kRowBytes);
    while (!Stack(14).PeekDram(RowId{spoilt}, absl::MakeSpan(row))) --spoilt;
    table_.reset();
    tables_.reset();
    segments_.reset();
    Spoil(14, spoilt);
    Start(budget);
    const uint64_t generation = segments_->generation();
    AdoptedCheck check(tables_.get());
    check.WaitUntilDone();
    EXPECT_EQ(Dram(14).mismatched_rows, 1u);
    EXPECT_EQ(Dram(14).usage.rows, 0u);
    EXPECT_EQ(Dram(14).usage.capacity_bytes, capacity);
    EXPECT_TRUE(Dram(14).usage.on);
    EXPECT_GT(segments_->generation(), generation);
    EXPECT_EQ(Dram(1).checked_rows, held);
    EXPECT_EQ(Dram(1).usage.rows, held);
    EXPECT_TRUE(tables_->StacksWithAdoptedRows().size() == 1);
    // And once more: what the new tier holds now is right.
    Fill(1);
    for (uint32_t id = 0; id < kRows; ++id) {
      std::vector<std::byte> expected(kRowBytes);
      DeriveRow(14, id, 1, absl::MakeSpan(expected));
      if (!Stack(14).PeekDram(RowId{id}, absl::MakeSpan(row))) continue;
      ASSERT_EQ(row, expected) << id;
    }
    table_.reset();
    tables_.reset();
    segments_.reset();
  }
}

// What the drive cannot give is no word against DRAM.
TEST_F(AdoptedCheckTest, PassesOverWhatNvmeCannotGive) {
  Load("t", 1, kRows);
  Start();
  Fill(1);
  tables_.reset();
  segments_.reset();
  store_.reset();
  // A page of rows in the middle of every data file.
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_)) {
    if (entry.path().extension() != ".sst") continue;
    const uint64_t size = std::filesystem::file_size(entry.path());
    if (size < kRows * kRowBytes) continue;  // the catalog's
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(size / 2 / 4096 * 4096 + 100));
    file.put('\x5A').put('\x5A').put('\x5A').put('\x5A');
    ASSERT_TRUE(file.good());
  }
  OpenStore();
  Start();
  AdoptedCheck check(tables_.get());
  check.WaitUntilDone();
  EXPECT_GT(Dram(14).checked_rows, kRows / 2);
  EXPECT_LT(Dram(14).checked_rows, kRows);
  EXPECT_EQ(Dram(14).mismatched_rows, 0u);
  EXPECT_EQ(Dram(14).usage.rows, kRows);
}

// While versions come, go and are dropped: nothing waits for the check, and it says nothing wrong.
TEST_F(AdoptedCheckTest, GivesUpWhenItsCacheOrTableGoes) {
  for (int round = 0; round < 4; ++round) {
    Load("t", 1, kRows);
    Load("t", 2, kRows);
    ASSERT_TRUE(store_->Activate("t", VersionId{1}).ok());
    Start();
    Fill(1);
    Restart();
    AdoptedCheck check(tables_.get());
    std::this_thread::sleep_for(std::chrono::microseconds(500 * round));
    if (round % 2 == 0) {
      ASSERT_TRUE(tables_->Activate("t", VersionId{2}).ok());
    }
    const std::weak_ptr<const OpenTable> dropped = *tables_->Find("t", VersionId{1});
    ASSERT_TRUE(tables_->DropVersion("t", VersionId{1}).ok());
    EXPECT_TRUE(dropped.expired());  // a drop gives up waiting for readers after a while
    ASSERT_TRUE(tables_->DropVersion("t", VersionId{2}).ok());
    check.WaitUntilDone();
    check.Stop();
    EXPECT_TRUE(tables_->Snapshot().empty());
    tables_.reset();
    segments_.reset();
  }
}

TEST_F(AdoptedCheckTest, StopsInTheMiddle) {
  Load("t", 1, kRows);
  Start();
  Fill(1);
  for (int round = 0; round < 10; ++round) {
    Restart();
    AdoptedCheck check(tables_.get());
    std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
    check.Stop();
    EXPECT_LE(Dram(14).checked_rows, kRows);
    EXPECT_EQ(Dram(14).usage.rows, kRows);
  }
}

}  // namespace
}  // namespace engram
