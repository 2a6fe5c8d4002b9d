// One look-up out of a daemon's memory and the rest of it from the daemon, both in this process.
#include "client/local/shm_batch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/server/local/handover_fixture.h"

namespace engram {
namespace {

class ShmBatchTest : public HandoverFixture {
 protected:
  // As Attach would say it now.
  std::unique_ptr<ShmTable> Attach() {
    auto link = AttachLink::Connect(Path(), instance_);
    if (!link.ok()) throw std::runtime_error(link.status().ToString());
    auto shm = std::make_unique<ShmTable>();
    const auto table = *tables_->Find("t", kActiveVersion);
    shm->link = *std::move(link);
    shm->generation = segments_->generation();
    shm->version = Raw(table->spec().version);
    shm->table_digest = table->record.table_digest;
    for (const int32_t id : {1, 14}) {
      auto layer = AttachedLayer::Map(shm->link, *Describe(*table, id));
      if (!layer.ok()) throw std::runtime_error(layer.status().ToString());
      shm->layers.push_back(*std::move(layer));
    }
    return shm;
  }

  LookupRequest Request(int32_t layer) {
    rows_.assign(ids_.size() * kRowBytes, std::byte{0xEE});
    return {.table = "t",
            .layers = {{.layer = layer, .row_ids = ids_, .out = absl::MakeSpan(rows_)}}};
  }

  void ExpectRows(int32_t layer) {
    std::vector<std::byte> expected(kRowBytes);
    for (size_t i = 0; i < ids_.size(); ++i) {
      DeriveRow(layer, ids_[i], 1, absl::MakeSpan(expected));
      ASSERT_EQ(std::memcmp(expected.data(), &rows_[i * kRowBytes], kRowBytes), 0) << ids_[i];
    }
  }

  // Puts the rest, which is of one layer, to the daemon.
  absl::StatusOr<LookupAnswer> Ask(const LookupRequest& rest) {
    const LayerRequest& layer = rest.layers.at(0);
    const std::string bytes = Bytes({layer.row_ids.begin(), layer.row_ids.end()});
    auto lookup = Lookup::Start(*tables_, pool_, {},
                                {.table = rest.table,
                                 .version = VersionId{rest.version},
                                 .layers = {{LayerId{layer.layer}, bytes}},
                                 .expect_table_digest = rest.expect_table_digest});
    if (!lookup.ok()) return lookup.status();
    if (!(*lookup)->ReadMemory()) (*lookup)->ReadStorage();
    if (const absl::Status status = (*lookup)->Finish(); !status.ok()) return status;
    std::memcpy(layer.out.data(), (*lookup)->parts().at(0)->rows.get(), layer.out.size());
    LookupAnswer answer;
    answer.version = Raw((*lookup)->version());
    LayerAnswer& rows = answer.layers.emplace_back();
    rows.layer = layer.layer;
    rows.row_bytes = kRowBytes;
    rows.nvme_rows = layer.row_ids.size();
    return answer;
  }

  std::vector<uint32_t> ids_;
  std::vector<std::byte> rows_;
};

TEST_F(ShmBatchTest, WhatWasCopiedIsNotUsedOnceMemoryHasChanged) {
  Load("t", 1, 500);
  Load("t", 2, 500);
  Serve(uint64_t{64} << 20);
  ids_.resize(500);
  std::iota(ids_.begin(), ids_.end(), 0u);
  LookUp(ids_);
  const std::unique_ptr<ShmTable> table = Attach();
  {
    ShmBatch batch;
    ASSERT_TRUE(batch.Gather(*table, Request(1), nullptr, /*phase=*/0));
    EXPECT_TRUE(batch.complete());
    ExpectRows(1);
  }
  // As if the switch had come after the table was found, and before its rows were copied.
  ASSERT_TRUE(tables_->Activate("t", VersionId{2}).ok());
  ASSERT_FALSE(table->Holds());
  ShmBatch whole;
  EXPECT_FALSE(whole.Gather(*table, Request(1), nullptr, /*phase=*/0));
  ids_.push_back(506);
  ShmBatch part;
  EXPECT_FALSE(part.Gather(*table, Request(14), nullptr, /*phase=*/0));
}

TEST_F(ShmBatchTest, TheRestComesFromTheSameTable) {
  Load("t", 1, kRows);
  Serve(uint64_t{64} << 20);
  ids_.resize(100);
  std::iota(ids_.begin(), ids_.end(), 0u);
  LookUp(ids_);
  std::iota(ids_.begin(), ids_.end(), 60u);
  const std::unique_ptr<ShmTable> table = Attach();
  ShmBatch batch;
  ASSERT_TRUE(batch.Gather(*table, Request(14), nullptr, /*phase=*/0));
  EXPECT_FALSE(batch.complete());
  EXPECT_EQ(batch.answer().layers.at(0).dram_rows, 40u);
  const LookupRequest& rest = batch.rest();
  EXPECT_EQ(rest.layers.at(0).row_ids.size(), 60u);
  const auto answer = Ask(rest);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_TRUE(batch.Add(*answer));
  EXPECT_EQ(batch.answer().layers.at(0).nvme_rows, 60u);
  ExpectRows(14);
  // Another table of the same version number would answer the very ids.
  ASSERT_TRUE(tables_->DropTable("t").ok());
  Load("t", 1, kRows / 2);
  const absl::Status refused = Ask(rest).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_TRUE(IsRefusal(refused));
}

}  // namespace
}  // namespace engram
