// The HBM tier of a daemon over real tables, in host memory; the device's faults are put in
// between.
#include "server/placement/hbm_cache.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "server/jobs/verify_job.h"
#include "storage/profile/row_profile.h"
#include "tests/unit/gpu_cache/wrapped_backend.h"
#include "tests/unit/server/table_fixture.h"

namespace engram {
namespace {

using gpu_cache::ArenaExport;
using gpu_cache::ArenaMemory;
using gpu_cache::Backend;
using gpu_cache::Code;
using gpu_cache::MemoryKind;
using gpu_cache::Status;

constexpr uint64_t kMiB = uint64_t{1} << 20;

// What a test does to the device.
struct Faults {
  std::atomic<bool> lost{false};     // every call fails from now on
  std::atomic<int> flip_records{0};  // so many of the records written next get a wrong byte
  std::atomic<uint64_t> free_bytes{uint64_t{1} << 40};
};

class FaultyMemory final : public ArenaMemory {
 public:
  FaultyMemory(std::unique_ptr<ArenaMemory> memory, Faults* faults)
      : memory_(std::move(memory)), faults_(faults) {}
  const ArenaExport& description() const override { return memory_->description(); }
  int export_fd() const override { return memory_->export_fd(); }
  Status Clear(uint64_t offset, uint64_t bytes) override {
    return faults_->lost ? Lost() : memory_->Clear(offset, bytes);
  }
  Status Write(uint64_t offset, std::span<const std::byte> bytes) override {
    return faults_->lost ? Lost() : memory_->Write(offset, bytes);
  }
  Status Publish(uint64_t offset, uint64_t word) override {
    return faults_->lost ? Lost() : memory_->Publish(offset, word);
  }
  Status Scatter(std::span<const uint64_t> offsets, uint32_t record_bytes,
                 std::span<const std::byte> records) override {
    if (faults_->lost) return Lost();
    std::vector<std::byte> copy(records.begin(), records.end());
    if (record_bytes == 264 && faults_->flip_records > 0 && !offsets.empty()) {
      --faults_->flip_records;
      copy[17] ^= std::byte{1};
    }
    return memory_->Scatter(offsets, record_bytes, copy);
  }
  Status Collect(std::span<const uint64_t> offsets, uint32_t record_bytes,
                 std::span<std::byte> records) override {
    return faults_->lost ? Lost() : memory_->Collect(offsets, record_bytes, records);
  }

 private:
  static Status Lost() { return {Code::kUnavailable, "the device was reset"}; }
  const std::unique_ptr<ArenaMemory> memory_;
  Faults* const faults_;
};

class FaultyBackend final : public gpu_cache::WrappedBackend {
 public:
  explicit FaultyBackend(Faults* faults) : faults_(faults) {}
  uint64_t FreeBytes() const override { return faults_->free_bytes; }
  Status Allocate(uint64_t bytes, MemoryKind /*kind*/, std::unique_ptr<ArenaMemory>& out) override {
    std::unique_ptr<ArenaMemory> memory;
    Status status = WrappedBackend::Allocate(bytes, MemoryKind::kHost, memory);
    if (status.ok()) out = std::make_unique<FaultyMemory>(std::move(memory), faults_);
    return status;
  }

 private:
  Faults* const faults_;
};

class HbmCacheTest : public TableFixture {
 protected:
  void TearDown() override {
    if (cache_ != nullptr) cache_->Stop();
    TableFixture::TearDown();
  }

  HbmCache::Options Options(uint64_t budget) {
    return {.budget_bytes = budget,
            .memory = HbmCache::Memory::kHost,
            .refresh = std::chrono::milliseconds(20),
            .round = std::chrono::milliseconds(2),
            .hotness_directory = directory_ + "/data/hotness",
            .open = [this](std::unique_ptr<Backend>& out) {
              out = std::make_unique<FaultyBackend>(&faults_);
              return Status();
            }};
  }

  void Open(uint64_t hbm_budget, uint64_t dram_budget) {
    cache_ = std::make_unique<HbmCache>(Options(hbm_budget));
    OpenTables(dram_budget, nullptr, cache_.get());
    cache_->Start(tables_.get());
  }

  TierUsage Usage(const std::string& name, uint64_t version, size_t layer) {
    return tables_->Find(name, VersionId{version}).value()->layers[layer]->hbm().Usage();
  }

  // Waits until it holds; a minute at most.
  static bool Comes(const std::function<bool()>& condition) {
    for (int i = 0; i < 60000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  // Which of these rows the tier holds; each that it does is compared.
  std::vector<bool> Held(const std::string& name, uint64_t version, size_t layer,
                         const std::vector<RowId>& ids) {
    const auto table = tables_->Find(name, VersionId{version}).value();
    const TierStack& stack = *table->layers[layer];
    std::vector<std::byte> rows(ids.size() * kRowBytes);
    std::vector<bool> held;
    if (!cache_->ReadHeld(stack.id(), ids, absl::MakeSpan(rows), held)) {
      return std::vector<bool>(ids.size());
    }
    std::vector<std::byte> expected(kRowBytes);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (!held[i]) continue;
      DeriveRow(Raw(stack.spec().id), Raw(ids[i]), version, absl::MakeSpan(expected));
      EXPECT_EQ(std::memcmp(expected.data(), &rows[i * kRowBytes], kRowBytes), 0)
          << "row " << Raw(ids[i]);
    }
    return held;
  }

  uint64_t CountHeld(const std::string& name, uint64_t version, size_t layer, uint64_t rows) {
    std::vector<RowId> ids;
    for (uint32_t id = 0; id < rows; ++id) ids.push_back(RowId{id});
    const std::vector<bool> held = Held(name, version, layer, ids);
    return static_cast<uint64_t>(std::count(held.begin(), held.end(), true));
  }

  // As a daemon's look-up: the rows' accesses are counted.
  void LookUp(const std::string& name, size_t layer, const std::vector<RowId>& ids) {
    const auto table = tables_->Find(name, kActiveVersion).value();
    TierStack& stack = *table->layers[layer];
    std::vector<std::byte> out(ids.size() * kRowBytes);
    RowBatch batch(ids, kRowBytes, absl::MakeSpan(out));
    stack.ReadMemory(batch);
    stack.ReadStorage(batch);
    stack.Count(batch);
  }

  Faults faults_;
  std::unique_ptr<HbmCache> cache_;
};

TEST_F(HbmCacheTest, ALayerThatFitsIsBroughtWhole) {
  Load("small", 1, 500);
  Open(kMiB, 0);
  ASSERT_TRUE(Comes([&] { return Usage("small", 1, 0).rows == 500; }));
  ASSERT_TRUE(Comes([&] { return Usage("small", 1, 1).rows == 507; }));
  EXPECT_EQ(CountHeld("small", 1, 0, 500), 500u);
  EXPECT_EQ(CountHeld("small", 1, 1, 507), 507u);
  const TierUsage usage = Usage("small", 1, 0);
  EXPECT_TRUE(usage.on);
  EXPECT_EQ(usage.bytes, 500u * kRowBytes);
  EXPECT_NE(cache_->note().find("a device of the test"), std::string::npos) << cache_->note();
}

TEST_F(HbmCacheTest, HoldsWhatIsAskedForWithinItsBudget) {
  Load("table", 1, 20000);
  Open(kMiB, 0);
  std::vector<RowId> hot;
  for (uint32_t id = 0; id < 400; ++id) hot.push_back(RowId{id * 37});
  ASSERT_TRUE(Comes([&] {
    LookUp("table", 0, hot);
    const std::vector<bool> held = Held("table", 1, 0, hot);
    return std::count(held.begin(), held.end(), true) > 390;
  }));
  uint64_t capacity = 0;
  for (size_t layer = 0; layer < 2; ++layer) {
    EXPECT_GT(Usage("table", 1, layer).capacity_bytes, kMiB / 3);
    capacity += Usage("table", 1, layer).capacity_bytes;
  }
  EXPECT_LE(capacity, kMiB);
  // Others become popular, and take the places.
  std::vector<RowId> newer;
  for (uint32_t id = 0; id < 1500; ++id) newer.push_back(RowId{id * 13 + 1});
  ASSERT_TRUE(Comes([&] {
    for (int i = 0; i < 20; ++i) LookUp("table", 0, newer);
    const std::vector<bool> held = Held("table", 1, 0, newer);
    return std::count(held.begin(), held.end(), true) > 1200;
  }));
}

TEST_F(HbmCacheTest, BeginsWithWhatDramHolds) {
  Load("table", 1, 20000);
  Open(kMiB, 4 * kMiB);
  std::vector<RowId> ids;
  for (uint32_t id = 0; id < 500; ++id) ids.push_back(RowId{id});
  const auto table = tables_->Find("table", kActiveVersion).value();
  std::vector<std::byte> rows(ids.size() * kRowBytes);
  RowBatch batch(ids, kRowBytes, absl::MakeSpan(rows));
  const std::vector<uint32_t> positions = batch.missing();
  table->layers[0]->ReadStorage(batch);
  // Nobody has looked them up: they come by DRAM's own knowledge.
  ASSERT_EQ(table->layers[0]->Offer(batch, positions), 500u);
  EXPECT_TRUE(Comes([&] { return CountHeld("table", 1, 0, 500) > 450; }));
}

TEST_F(HbmCacheTest, BeginsWithAProfilesRows) {
  Load("table", 1, 20000);
  const TableSpec spec = Spec("table", 1, 20000);
  const HotnessFiles files(directory_ + "/data/hotness");
  const auto fill = [](HotWriter& writer) {
    for (uint32_t id = 0; id < 300; ++id) {
      if (const absl::Status status = writer.Add(RowId{id * 11}, 70000); !status.ok())
        return status;
    }
    return absl::OkStatus();
  };
  LayerProfile outline;
  outline.rows = spec.layers[0].rows;
  outline.columns = {{2, outline.rows}};
  outline.orders = {{2, {{70000, 300}}}};
  const absl::Status written = files.Write({"table", AddressingFingerprint(spec), LayerId{1}},
                                           HotnessFiles::Kind::kProfile, outline, 4096, fill);
  ASSERT_TRUE(written.ok()) << written;
  Open(kMiB, 0);
  // Nobody asks for anything, and there is no DRAM tier.
  std::vector<RowId> hot;
  for (uint32_t id = 0; id < 300; ++id) hot.push_back(RowId{id * 11});
  EXPECT_TRUE(Comes([&] {
    const std::vector<bool> held = Held("table", 1, 0, hot);
    return std::count(held.begin(), held.end(), true) > 280;
  }));
}

// What the drive cannot give is zeros in the batch: put into a slot, it would be served as the row.
TEST_F(HbmCacheTest, RowsOfADamagedPageAreNotBrought) {
  Load("small", 1, 500);
  store_.reset();
  ASSERT_EQ(DamageSecondPages(), 2);
  OpenStore();
  Open(kMiB, 0);
  ASSERT_TRUE(Comes([&] { return Usage("small", 1, 0).rows == 485; }));
  ASSERT_TRUE(Comes([&] { return Usage("small", 1, 1).rows == 492; }));
  std::vector<RowId> ids;
  for (uint32_t id = 0; id < 500; ++id) ids.push_back(RowId{id});
  for (const size_t layer : {0, 1}) {
    const std::vector<bool> held = Held("small", 1, layer, ids);
    for (uint32_t id = 0; id < 500; ++id) EXPECT_EQ(held[id], id < 15 || id >= 30) << "row " << id;
  }
}

TEST_F(HbmCacheTest, FollowsASwitchOfVersions) {
  Load("table", 1, 300);
  Open(kMiB, 0);
  ASSERT_TRUE(Comes([&] { return Usage("table", 1, 0).rows == 300; }));
  const uint32_t old_stack = tables_->Find("table", VersionId{1}).value()->layers[0]->id();
  Load("table", 2, 300);
  EXPECT_FALSE(Usage("table", 2, 0).on);
  EXPECT_NE(Usage("table", 2, 0).note.find("active"), std::string::npos);
  ASSERT_TRUE(tables_->Activate("table", VersionId{2}).ok());
  ASSERT_TRUE(Comes([&] { return Usage("table", 2, 0).rows == 300; }));
  EXPECT_EQ(CountHeld("table", 2, 0, 300), 300u);
  EXPECT_FALSE(Usage("table", 1, 0).on);
  EXPECT_FALSE(cache_->Find(old_stack).has_value());
  ASSERT_TRUE(tables_->DropVersion("table", VersionId{2}).ok());
  const auto gone = [&] { return !cache_->Find(old_stack + 2).has_value(); };
  EXPECT_TRUE(Comes(gone));
}

TEST_F(HbmCacheTest, TablesShareTheArena) {
  Load("one", 1, 20000);
  Load("two", 1, 40000);
  Open(2 * kMiB, 0);
  ASSERT_TRUE(Comes([&] { return Usage("one", 1, 0).on && Usage("two", 1, 0).on; }));
  const double one = static_cast<double>(Usage("one", 1, 0).capacity_bytes);
  const double two = static_cast<double>(Usage("two", 1, 0).capacity_bytes);
  EXPECT_NEAR(two / one, 2.0, 0.1);
}

TEST_F(HbmCacheTest, ALostDeviceTurnsItOffAndNothingElse) {
  Load("table", 1, 20000);
  Open(kMiB, 0);
  std::vector<RowId> ids = {RowId{1}, RowId{2}, RowId{3}};
  ASSERT_TRUE(Comes([&] {
    LookUp("table", 0, ids);
    return CountHeld("table", 1, 0, 5) >= 3;
  }));
  faults_.lost = true;
  std::vector<RowId> others;
  for (uint32_t id = 100; id < 200; ++id) others.push_back(RowId{id});
  ASSERT_TRUE(Comes([&] {
    LookUp("table", 0, others);
    return cache_->note().find("reset") != std::string::npos;
  }));
  EXPECT_EQ(cache_->note().rfind("off: ", 0), 0u) << cache_->note();
  EXPECT_FALSE(Usage("table", 1, 0).on);
  EXPECT_FALSE(cache_->ArenaFile().valid());
  LookUp("table", 0, others);
  Load("more", 1, 100);
  EXPECT_FALSE(Usage("more", 1, 0).on);
}

TEST_F(HbmCacheTest, ADeviceLostAtARepartitionIsReportedOnce) {
  Load("table", 1, 500);
  Open(kMiB, 0);
  ASSERT_TRUE(
      Comes([&] { return Usage("table", 1, 0).rows == 500 && Usage("table", 1, 1).rows == 507; }));
  ::testing::internal::CaptureStderr();
  faults_.lost = true;
  Load("more", 1, 100);
  EXPECT_TRUE(Comes([&] { return cache_->note().find("reset") != std::string::npos; }));
  cache_->Stop();
  const std::string log = ::testing::internal::GetCapturedStderr();
  const size_t reported = log.find("the HBM tier is off");
  ASSERT_NE(reported, std::string::npos) << log;
  EXPECT_EQ(log.find("the HBM tier is off", reported + 1), std::string::npos) << log;
}

// Also those of a table that is loaded as the device fails, which have no region yet, and those of
// a version that is not active, which never had one.
TEST_F(HbmCacheTest, EveryLayerSaysThatTheDeviceWasLost) {
  Load("table", 1, 500);
  Load("table", 2, 500);
  Open(kMiB, 0);
  ASSERT_TRUE(
      Comes([&] { return Usage("table", 1, 0).rows == 500 && Usage("table", 1, 1).rows == 507; }));
  faults_.lost = true;
  Load("more", 1, 100);
  ASSERT_TRUE(Comes([&] { return cache_->note().find("reset") != std::string::npos; }));
  ASSERT_TRUE(Comes([&] { return Usage("more", 1, 1).note == cache_->note(); }));
  cache_->Stop();
  for (const size_t layer : {0, 1}) {
    EXPECT_EQ(Usage("more", 1, layer).note, cache_->note());
    EXPECT_EQ(Usage("table", 1, layer).note, cache_->note());
    EXPECT_EQ(Usage("table", 2, layer).note, cache_->note());
    EXPECT_FALSE(Usage("table", 1, layer).on);
  }
}

// Tables::OpenVersion may read the note before the device is lost, and the version be added after.
TEST_F(HbmCacheTest, AVersionThatWasBeingOpenedSaysThatTheDeviceWasLost) {
  Load("table", 1, 500);
  Load("table", 2, 500);
  Open(kMiB, 0);
  ASSERT_TRUE(Comes([&] { return Usage("table", 1, 0).rows == 500; }));
  faults_.lost = true;
  Load("more", 1, 100);
  ASSERT_TRUE(Comes([&] { return Usage("table", 2, 1).note == cache_->note(); }));
  const auto table = tables_->Find("table", VersionId{2}).value();
  table->layers[0]->hbm().SetUsage({.note = "off: only the active version of a table has HBM"});
  ASSERT_TRUE(tables_->Activate("table", VersionId{2}).ok());
  EXPECT_EQ(Usage("table", 2, 0).note, cache_->note());
}

TEST_F(HbmCacheTest, VerifyFindsAByteThatDiffers) {
  Load("small", 1, 500);
  faults_.flip_records = 1;
  Open(kMiB, 0);
  ASSERT_TRUE(
      Comes([&] { return Usage("small", 1, 0).rows == 500 && Usage("small", 1, 1).rows == 507; }));
  const std::atomic<bool> cancelled{false};
  VerifyParameters parameters;
  parameters.table = "small";
  parameters.hbm = cache_.get();
  const auto verified =
      RunVerify(*tables_, parameters, cancelled, [](const VerifyStatus&) { return true; });
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->hbm_rows, 1007u);
  EXPECT_EQ(verified->bad_rows, 1u);
  ASSERT_EQ(verified->problems.size(), 1u);
  EXPECT_NE(verified->problems[0].find("HBM holds other bytes"), std::string::npos)
      << verified->problems[0];
}

TEST_F(HbmCacheTest, SaysWhyItIsOff) {
  EXPECT_EQ(HbmCache(Options(0)).note(), "off: its budget is 0");
  faults_.free_bytes = kMiB;
  const std::string little = HbmCache(Options(2 * kMiB)).note();
  EXPECT_EQ(little.rfind("off: ", 0), 0u);
  EXPECT_NE(little.find("1MiB of free memory"), std::string::npos) << little;
  EXPECT_NE(little.find("2MiB"), std::string::npos) << little;
  const std::string small = HbmCache(Options(100)).note();
  EXPECT_NE(small.find("100 bytes is too small"), std::string::npos) << small;
  HbmCache::Options gpu = Options(kMiB);
  gpu.open = nullptr;
  gpu.memory = HbmCache::Memory::kGpu;
  gpu.gpu = 63;
  const std::string none = HbmCache(gpu).note();
  EXPECT_EQ(none.rfind("off: ", 0), 0u) << none;
}

TEST_F(HbmCacheTest, WorkersCannotWriteTheArena) {
  Load("small", 1, 100);
  Open(kMiB, 0);
  const UniqueFd file = cache_->ArenaFile();
  const int fd = file.get();
  ASSERT_GE(fd, 0);
  EXPECT_EQ(::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int again = ::open(path.c_str(), O_RDWR);
  if (again >= 0) {
    EXPECT_EQ(::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
    EXPECT_NE(::write(again, "x", 1), 1);
    EXPECT_NE(::ftruncate(again, 0), 0);
    ::close(again);
  }
}

}  // namespace
}  // namespace engram
