// What a reader maps for its device, with devices that can and cannot.
#include "client/gpu/gpu_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "server/placement/hbm_cache.h"
#include "tests/unit/gpu_cache/wrapped_backend.h"
#include "tests/unit/server/local/handover_fixture.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

// Host memory, but for what the test takes away.
class Device final : public gpu_cache::WrappedBackend {
 public:
  bool reads_read_only = true;
  bool imports = true;
  int registered = 0;

  gpu_cache::Status Import(const gpu_cache::ArenaExport& arena, int fd,
                           std::unique_ptr<gpu_cache::MappedMemory>& out) override {
    if (!imports) return {gpu_cache::Code::kInvalid, "it lies on another GPU"};
    return WrappedBackend::Import(arena, fd, out);
  }
  bool CanRegisterReadOnly() const override { return reads_read_only; }
  gpu_cache::Status Register(std::byte* memory, uint64_t bytes, bool read_only,
                             std::unique_ptr<gpu_cache::MappedMemory>& out) override {
    if (read_only && !reads_read_only) return {gpu_cache::Code::kUnsupported, "it cannot"};
    ++registered;
    return WrappedBackend::Register(memory, bytes, read_only, out);
  }
};

class GpuSourceTest : public HandoverFixture {
 protected:
  void TearDown() override {
    source_.reset();
    gatherer_.reset();
    if (hbm_ != nullptr) hbm_->Stop();
    HandoverFixture::TearDown();
  }

  void Begin(bool writable_dram, uint64_t hbm_bytes = 0) {
    Load("t", 1, kRows);
    hbm_ = std::make_unique<HbmCache>(HbmCache::Options{.budget_bytes = hbm_bytes,
                                                        .memory = HbmCache::Memory::kHost,
                                                        .refresh = std::chrono::milliseconds(20),
                                                        .round = std::chrono::milliseconds(1)});
    writable_dram_ = writable_dram;
    Serve(uint64_t{2} << 20, 1024, 256, writable_dram, hbm_.get());
    hbm_->Start(tables_.get());
    for (uint32_t id = 0; id < 500; ++id) ids_.push_back(id * 3);
    for (int i = 0; i < 20; ++i) LookUp(ids_);
    auto link = AttachLink::Connect(Path(), instance_);
    ASSERT_TRUE(link.ok()) << link.status();
    link_ = *std::move(link);
    ASSERT_TRUE(
        device_
            .MakeGatherer({.row_bytes = kRowBytes, .max_rows = 1000, .sample_every = 4}, gatherer_)
            .ok());
    source_ = std::make_unique<GpuSource>(&device_, gatherer_.get(), 1, kRowBytes);
  }

  // As Attach would say it now.
  std::shared_ptr<ShmTable> Attach() {
    auto shm = std::make_shared<ShmTable>();
    const auto table = *tables_->Find("t", kActiveVersion);
    shm->link = link_;
    shm->generation = segments_->generation();
    shm->version = 1;
    shm->writable_dram = writable_dram_;
    shm->hbm_note = hbm_->note();
    const uint32_t stack = table->FindLayer(LayerId{1})->id();
    if (const auto place = hbm_->Find(stack); place.has_value()) {
      shm->arena = place->arena;
      shm->hbm_layers = {
          {.layer = 1, .stack_id = stack, .region = place->region, .row_bytes = kRowBytes}};
    }
    auto layer = AttachedLayer::Map(link_, *Describe(*table, 1));
    if (!layer.ok()) throw std::runtime_error(layer.status().ToString());
    shm->layers.push_back(*std::move(layer));
    return shm;
  }

  // Gathers, compares every row that was found, and counts them.
  struct Found {
    uint64_t hbm = 0;
    uint64_t dram = 0;
  };
  Found Gather() {
    std::vector<std::byte> out(ids_.size() * kRowBytes, std::byte{0xEE});
    const gpu_cache::Report before = gatherer_->report();
    EXPECT_TRUE(
        gatherer_->Enqueue(ids_.data(), static_cast<uint32_t>(ids_.size()), out.data(), nullptr)
            .ok());
    std::vector<bool> missing(ids_.size());
    for (const gpu_cache::Miss& miss : gatherer_->missing()) missing[miss.position] = true;
    std::vector<std::byte> expected(kRowBytes);
    for (size_t i = 0; i < ids_.size(); ++i) {
      std::fill(expected.begin(), expected.end(), std::byte{0});
      if (!missing[i]) DeriveRow(1, ids_[i], 1, absl::MakeSpan(expected));
      EXPECT_EQ(std::memcmp(expected.data(), &out[i * kRowBytes], kRowBytes), 0) << ids_[i];
    }
    const gpu_cache::Report after = gatherer_->report();
    return {after.hbm_rows - before.hbm_rows, after.dram_rows - before.dram_rows};
  }

  Device device_;
  bool writable_dram_ = false;
  std::unique_ptr<HbmCache> hbm_;
  std::shared_ptr<AttachLink> link_;
  std::unique_ptr<gpu_cache::Gatherer> gatherer_;
  std::unique_ptr<GpuSource> source_;
  std::vector<uint32_t> ids_;
};

TEST_F(GpuSourceTest, ReadsDramThatItMayNotWrite) {
  Begin(false);
  ASSERT_TRUE(source_->Use(Attach(), nullptr).ok());
  EXPECT_TRUE(source_->Holds());
  EXPECT_GT(Gather().dram, 300u);
  EXPECT_THAT(source_->note(), HasSubstr("DRAM: read by the device"));
  EXPECT_THAT(source_->note(), HasSubstr("HBM: not used: off: its budget is 0"));
  EXPECT_EQ(server_->writing_clients(), 0u);
}

TEST_F(GpuSourceTest, ADeviceThatNeedsItWritableIsToldWhoMayAllowThat) {
  device_.reads_read_only = false;
  Begin(false);
  ASSERT_TRUE(source_->Use(Attach(), nullptr).ok());
  EXPECT_EQ(Gather().dram, 0u);
  EXPECT_THAT(source_->note(), HasSubstr("hbm_memory: gpu-writable"));
  EXPECT_EQ(device_.registered, 0);
}

TEST_F(GpuSourceTest, WhereItIsAllowedItIsMappedWritable) {
  device_.reads_read_only = false;
  Begin(true);
  ASSERT_TRUE(source_->Use(Attach(), nullptr).ok()) << source_->note();
  EXPECT_GT(Gather().dram, 300u) << source_->note();
  EXPECT_EQ(server_->writing_clients(), 1u);
}

TEST_F(GpuSourceTest, MapsAnewWhatChangedAndNothingElse) {
  Begin(false);
  ASSERT_TRUE(source_->Use(Attach(), nullptr).ok());
  const int registered = device_.registered;
  EXPECT_GT(registered, 1);
  segments_->Advance();
  EXPECT_FALSE(source_->Holds());
  EXPECT_EQ(Gather().dram, 0u) << "the kernel sees that it does not hold";
  ASSERT_TRUE(source_->Use(Attach(), nullptr).ok());
  EXPECT_TRUE(source_->Holds());
  EXPECT_EQ(device_.registered, registered) << "the segments are the same";
  EXPECT_GT(Gather().dram, 300u);
  ASSERT_TRUE(source_->Use(nullptr, nullptr).ok());
  EXPECT_FALSE(source_->Holds());
  EXPECT_EQ(Gather().dram, 0u);
}

TEST_F(GpuSourceTest, HbmIsImportedOnceAndReadFirst) {
  Begin(false, uint64_t{1} << 20);
  Found found;
  for (int i = 0; i < 2000 && found.hbm < 300; ++i) {
    LookUp(ids_);
    ASSERT_TRUE(source_->Use(Attach(), nullptr).ok());
    found = Gather();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_GE(found.hbm, 300u) << source_->note();
  EXPECT_THAT(source_->note(), HasSubstr("HBM: host memory"));
  // And what was read is told: in HBM's name, and in DRAM's.
  source_->Tell(found.hbm, found.dram, true, gatherer_->samples());
  server_->ReadTelemetry();
  const auto table = *tables_->Find("t", kActiveVersion);
  EXPECT_EQ(table->FindLayer(LayerId{1})->Snapshot()[0].hits, found.hbm);
}

TEST_F(GpuSourceTest, AnotherGpuReadsDramAlone) {
  device_.imports = false;
  Begin(false, uint64_t{1} << 20);
  // The tier's first layout.
  const auto table = *tables_->Find("t", kActiveVersion);
  const uint32_t stack = table->FindLayer(LayerId{1})->id();
  for (int i = 0; i < 2000 && !hbm_->Find(stack).has_value(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(source_->Use(Attach(), nullptr).ok());
  EXPECT_THAT(source_->note(), HasSubstr("HBM: not used: it lies on another GPU"));
  const Found found = Gather();
  EXPECT_EQ(found.hbm, 0u);
  EXPECT_GT(found.dram, 300u);
}

}  // namespace
}  // namespace engram
