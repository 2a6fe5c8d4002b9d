// A daemon's tables in shared memory of their own, and the server that hands it over, in one
// process.
#ifndef ENGRAM_TESTS_UNIT_SERVER_LOCAL_HANDOVER_FIXTURE_H_
#define ENGRAM_TESTS_UNIT_SERVER_LOCAL_HANDOVER_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/local/handover_server.h"
#include "server/placement/hbm_cache.h"
#include "storage/dram/attached.h"
#include "storage/dram/handover.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {

class HandoverFixture : public TableFixture {
 protected:
  static constexpr uint64_t kRows = 20000;  // 5 MiB a layer

  void SetUp() override {
    TableFixture::SetUp();
    std::string path = "/dev/shm/engram_handover_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    shm_dir_ = path;
    auto segments = SegmentStore::Open(shm_dir_, "s");
    ASSERT_TRUE(segments.ok()) << segments.status();
    segments_ = *std::move(segments);
  }
  void TearDown() override {
    server_.reset();
    tables_.reset();
    segments_.reset();
    std::filesystem::remove_all(shm_dir_);
    TableFixture::TearDown();
  }

  void Serve(uint64_t dram_bytes, size_t max_clients = 1024, size_t max_per_user = 256,
             bool writable_dram = false, HbmCache* hbm = nullptr) {
    auto tables = Tables::Open(store_.get(), {.dram_budget_bytes = dram_bytes,
                                              .segments = segments_.get(),
                                              .hbm = hbm,
                                              .await_clients = await_clients_});
    ASSERT_TRUE(tables.ok()) << tables.status();
    tables_ = *std::move(tables);
    auto server = HandoverServer::Start({.instance = instance_,
                                         .grpc_sockets = {Socket()},
                                         .tables = tables_.get(),
                                         .hbm = hbm,
                                         .writable_dram = writable_dram,
                                         .max_clients = max_clients,
                                         .max_clients_per_user = max_per_user});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Socket() const { return directory_ + "/s"; }
  std::string Path() const { return Socket() + dram::kHandoverSuffix; }

  // What Attach tells a client of one layer, without the wire; nothing if it has no DRAM.
  static std::optional<AttachedShape> Describe(const OpenTable& table, int32_t layer) {
    TierStack* const stack = table.FindLayer(LayerId{layer});
    const std::shared_ptr<const RowCache> dram = stack->SharedDram();
    if (dram == nullptr) return std::nullopt;
    AttachedShape shape;
    shape.layer = layer;
    shape.stack_id = stack->id();
    shape.shape = dram->shape();
    shape.table_digest = table.record.table_digest;
    shape.bucket_segments = dram->bucket_segments();
    for (const auto& segment : dram->segments()) shape.segment_ids.push_back(segment->id());
    return shape;
  }

  // Reads the rows through the tiers, as a look-up does, and offers them to DRAM.
  void LookUp(const std::vector<uint32_t>& ids, uint64_t version = 0) {
    const std::string bytes = Bytes(ids);
    auto lookup = Lookup::Start(*tables_, pool_, {},
                                {.table = "t",
                                 .version = VersionId{version},
                                 .layers = {{LayerId{1}, bytes}, {LayerId{14}, bytes}}});
    if (!lookup.ok()) return;
    if (!(*lookup)->ReadMemory()) (*lookup)->ReadStorage();
    ASSERT_TRUE((*lookup)->Finish().ok());
    EXPECT_TRUE(RowsAreRight(**lookup));
    (*lookup)->Warm();
  }

  const uint64_t instance_ = HandoverServer::NewInstance();
  std::function<void()> await_clients_;  // what Serve gives the tables
  std::string shm_dir_;
  std::unique_ptr<SegmentStore> segments_;
  std::unique_ptr<HandoverServer> server_;
};

}  // namespace engram

#endif  // ENGRAM_TESTS_UNIT_SERVER_LOCAL_HANDOVER_FIXTURE_H_
