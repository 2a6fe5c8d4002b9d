// The HBM tier from end to end: the real daemon, workers that gather by themselves, on every device
// that there is.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "client/gpu_reader.h"
#include "gpu_cache/backend.h"
#include "gpu_cache/dequantise.h"
#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

using gpu_cache::Backend;
using gpu_cache::DeviceBuffer;
using gpu_cache::Stream;

constexpr uint32_t kMaxRows = 4000;

class HbmTest : public DaemonFixture, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    if (!OnHost()) {
      const gpu_cache::Status status = gpu_cache::OpenCuda(0, backend_);
      if (!status.ok()) GTEST_SKIP() << status.message();
    } else {
      backend_ = gpu_cache::HostBackend();
    }
    Make(backend_->MakeStream(stream_));
    Make(backend_->MakeBuffer(kMaxRows * 4, ids_));
    Make(backend_->MakeBuffer(kMaxRows * 512, out_));
  }

  bool OnHost() const { return std::string(GetParam()) == "host"; }
  static void Make(const gpu_cache::Status& status) {
    ASSERT_TRUE(status.ok()) << status.message();
  }

  void Start(std::vector<std::string> flags = {"--hbm=2MiB", "--dram", "2MiB"}) {
    flags.push_back(OnHost() ? "--hbm-memory=host" : "--hbm-memory=gpu-writable");
    flags.push_back("--hbm-refresh-seconds=1");
    StartDaemon(flags);
  }

  absl::StatusOr<std::unique_ptr<GpuReader>> TryOpen(int layer, GpuOutput output) {
    GpuReaderOptions options;
    options.client.target = daemon_->target();
    options.client.default_deadline = std::chrono::milliseconds(5000);
    options.table = "t";
    options.layer = layer;
    options.max_rows = kMaxRows;
    options.output = output;
    options.host_memory = OnHost();
    return GpuReader::Open(options);
  }
  std::unique_ptr<GpuReader> Open(int layer, GpuOutput output = GpuOutput::kRaw) {
    auto reader = TryOpen(layer, output);
    if (!reader.ok()) throw std::runtime_error(reader.status().ToString());
    return *std::move(reader);
  }

  // One step of a worker: refresh, gather, complete.
  absl::StatusOr<GpuReader::Result> Step(GpuReader& reader, const std::vector<uint32_t>& ids) {
    const absl::Status refreshed = reader.Refresh(stream_->handle());
    if (!refreshed.ok()) return refreshed;
    Make(ids_->Upload(0, std::as_bytes(std::span(ids))));
    const absl::Status launched =
        reader.Enqueue(reinterpret_cast<const uint32_t*>(ids_->data()),
                       static_cast<uint32_t>(ids.size()), out_->data(), stream_->handle());
    if (!launched.ok()) return launched;
    auto result = reader.Complete(out_->data(), stream_->handle());
    if (result.ok()) {
      // Once more finds nothing to do, but has waited for what the first left on the stream.
      const auto again = reader.Complete(out_->data(), stream_->handle());
      EXPECT_TRUE(again.ok() && again->hbm_rows + again->dram_rows + again->fetched_rows == 0);
    }
    std::vector<std::byte> out(ids.size() * reader.output_row_bytes());
    Make(out_->Download(0, out));
    rows_ = std::move(out);
    return result;
  }

  void ExpectStep(GpuReader& reader, const TestCheckpoint& checkpoint, int layer,
                  const std::vector<uint32_t>& ids, GpuReader::Result* got = nullptr) {
    const auto result = Step(reader, ids);
    ASSERT_TRUE(result.ok()) << result.status();
    ExpectRows(checkpoint, layer, ids, rows_);
    const auto zeros = static_cast<uint64_t>(std::count(ids.begin(), ids.end(), kDeadPosition));
    EXPECT_EQ(result->hbm_rows + result->dram_rows + result->fetched_rows, ids.size() - zeros);
    if (got != nullptr) *got = *result;
  }

  v1::TierStats HbmOf(size_t layer) {
    auto stats = admin_->Stats();
    if (!stats.ok()) throw std::runtime_error(stats.status().ToString());
    return stats->tables(0).layers(static_cast<int>(layer)).tiers().hbm();
  }

  // Waits until it holds; a minute at most.
  static bool Comes(const std::function<bool()>& condition) {
    for (int i = 0; i < 6000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<DeviceBuffer> ids_;
  std::unique_ptr<DeviceBuffer> out_;
  std::vector<std::byte> rows_;
};

TEST_P(HbmTest, RowsComeFromEveryTierAndAreRight) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 3000, 1);
  Start();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::unique_ptr<GpuReader> reader = Open(1);
  std::mt19937_64 random(TestSeed());
  std::vector<uint32_t> hot = RandomIds(random, checkpoint, 1500);
  GpuReader::Result result;
  // What is asked for is learned, by whatever way it came.
  ASSERT_TRUE(Comes([&] {
    ExpectStep(*reader, checkpoint, 1, hot, &result);
    return result.hbm_rows > 1000;
  })) << result.hbm_rows
      << " rows from HBM; " << reader->note();
  std::vector<uint32_t> mixed = RandomIds(random, checkpoint, 2000);
  mixed.insert(mixed.end(), hot.begin(), hot.end());
  mixed[3] = kDeadPosition;
  uint64_t from_hbm = 0;
  uint64_t from_dram = 0;
  uint64_t fetched = 0;
  for (int i = 0; i < 20; ++i) {
    ExpectStep(*reader, checkpoint, 1, mixed, &result);
    from_hbm += result.hbm_rows;
    from_dram += result.dram_rows;
    fetched += result.fetched_rows;
  }
  EXPECT_GT(from_hbm, 0u);
  EXPECT_GT(from_dram, 0u) << reader->note();
  EXPECT_GT(fetched, 0u);
  EXPECT_NE(reader->note().find("DRAM: read by the device"), std::string::npos) << reader->note();
  const CommandResult bench = RunTool(
      "engramctl", {"bench", "t", "--server", daemon_->target(), "--transport",
                    OnHost() ? "gpu-host" : "gpu", "--seconds", "0.2", "--threads", "2", "--json"});
  EXPECT_EQ(bench.exit_code, 0) << bench.errors;
  const size_t rows_at = bench.output.find("\"rows\": ", bench.output.find("\"hbm\": {"));
  ASSERT_NE(rows_at, std::string::npos) << bench.output;
  EXPECT_GT(std::strtoull(&bench.output[rows_at + 8], nullptr, 10), 0u) << bench.output;
  const v1::TierStats hbm = HbmOf(0);
  EXPECT_GE(hbm.hits(), from_hbm);
  EXPECT_GT(hbm.rows(), 1000u);
  EXPECT_EQ(hbm.bytes(), hbm.rows() * kRowBytes);
  EXPECT_EQ(hbm.note().rfind(backend_->name(), 0), 0u) << hbm.note();
}

TEST_P(HbmTest, ALayerThatFitsComesWholeAndVerifyReadsIt) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 2);
  Start({"--hbm=4MiB", "--dram", "1MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  ASSERT_TRUE(Comes([&] {
    return HbmOf(0).rows() == checkpoint.rows[0] && HbmOf(1).rows() == checkpoint.rows[1];
  }));
  for (const int layer : checkpoint.layers) {
    const std::unique_ptr<GpuReader> reader = Open(layer);
    std::vector<uint32_t> ids(checkpoint.RowsOf(layer));
    for (uint32_t id = 0; id < ids.size(); ++id) ids[id] = id;
    GpuReader::Result result;
    ExpectStep(*reader, checkpoint, layer, ids, &result);
    EXPECT_EQ(result.hbm_rows, ids.size()) << reader->note();
  }
  const CommandResult verified =
      RunTool("engramctl", {"--server", daemon_->target(), "verify", "t", "--json"});
  EXPECT_EQ(verified.exit_code, 0) << verified.errors;
  EXPECT_NE(verified.output.find("\"hbm_rows\": " + std::to_string(checkpoint.TotalRows())),
            std::string::npos)
      << verified.output;
}

TEST_P(HbmTest, GivesBf16) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 1000, 3);
  Start();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::unique_ptr<GpuReader> reader = Open(14, GpuOutput::kBf16);
  EXPECT_EQ(reader->output_row_bytes(), 512u);
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 5; ++round) {
    const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 700);
    ASSERT_TRUE(Step(*reader, ids).ok());
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::vector<std::byte> row = checkpoint.ExpectedRow(14, ids[i]);
      for (int v = 0; v < kHeadDim; ++v) {
        const uint16_t expected = gpu_cache::Dequantise(
            std::to_integer<uint8_t>(row[v]),
            gpu_cache::ScaleOf(std::to_integer<uint8_t>(row[kHeadDim + v / 32])));
        uint16_t got = 0;
        std::memcpy(&got, &rows_[(i * kHeadDim + v) * 2], 2);
        ASSERT_EQ(got, expected) << "row " << ids[i] << " value " << v;
      }
    }
  }
}

TEST_P(HbmTest, AReaderStaysWithItsVersion) {
  const TestCheckpoint one = MakeCheckpoint("one", 1000, 4);
  const TestCheckpoint two = MakeCheckpoint("two", 1000, 5);
  Start();
  ASSERT_TRUE(Load("t", one.directory, 1).ok());
  ASSERT_TRUE(Load("t", two.directory, 2).ok());
  const std::unique_ptr<GpuReader> old_reader = Open(1);
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, one, 800);
  ExpectStep(*old_reader, one, 1, ids);
  v1::ActivateRequest activate;
  activate.set_table("t");
  activate.set_version(2);
  ASSERT_TRUE(admin_->Activate(activate).ok());
  const std::unique_ptr<GpuReader> new_reader = Open(1);
  GpuReader::Result result;
  ASSERT_TRUE(Comes([&] {
    ExpectStep(*old_reader, one, 1, ids);
    ExpectStep(*new_reader, two, 1, ids, &result);
    return result.hbm_rows > 500;
  }));
  v1::DropVersionRequest drop;
  drop.set_table("t");
  drop.set_version(1);
  ASSERT_TRUE(admin_->DropVersion(drop).ok());
  const auto gone = Step(*old_reader, ids);
  EXPECT_EQ(gone.status().code(), absl::StatusCode::kNotFound) << gone.status();
  // What is not there is zeros, and nothing else's rows.
  EXPECT_EQ(rows_, std::vector<std::byte>(rows_.size()));
  ExpectStep(*new_reader, two, 1, ids);
}

TEST_P(HbmTest, ADaemonThatDiesIsAnErrorAndItsSuccessorIsFound) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 1000, 6);
  Start();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::unique_ptr<GpuReader> reader = Open(1);
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 500);
  GpuReader::Result result;
  ASSERT_TRUE(Comes([&] {
    ExpectStep(*reader, checkpoint, 1, ids, &result);
    return result.hbm_rows > 300;
  }));
  daemon_->Kill();
  // Either every row was still found, or the rest is told to be missing.
  const auto begin = std::chrono::steady_clock::now();
  const auto orphaned = Step(*reader, ids);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  if (orphaned.ok()) {
    ExpectRows(checkpoint, 1, ids, rows_);
  } else {
    EXPECT_TRUE(absl::IsUnavailable(orphaned.status()) ||
                absl::IsDeadlineExceeded(orphaned.status()))
        << orphaned.status();
  }
  StopDaemon();
  Start();
  ASSERT_TRUE(Comes([&] {
    const auto step = Step(*reader, ids);
    if (step.ok()) ExpectRows(checkpoint, 1, ids, rows_);
    return step.ok() && step->hbm_rows > 300;
  })) << reader->note();
}

TEST_P(HbmTest, AWorkerThatDiesLeavesTheTierAsItIs) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 1000, 7);
  Start();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  std::mt19937_64 random(TestSeed());
  const std::vector<uint32_t> ids = RandomIds(random, checkpoint, 500);
  for (int i = 0; i < 5; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      // gRPC does not survive a fork, so the child is a program of its own.
      ::execl(ToolPath("hbm_worker").c_str(), "hbm_worker", daemon_->target().c_str(), nullptr);
      ::_exit(99);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50 + random() % 200));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status)) << "it gathers until it is killed; status " << status;
  }
  const std::unique_ptr<GpuReader> reader = Open(1);
  ExpectStep(*reader, checkpoint, 1, ids);
  EXPECT_TRUE(daemon_->Alive());
}

// The tiers change under a reader all the time; what it gives is always right.
TEST_P(HbmTest, RowsAreRightWhileEverythingChanges) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 2000, 8);
  Start({"--hbm=1MiB", "--dram", "2MiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const std::unique_ptr<GpuReader> reader = Open(1);
  std::mt19937_64 random(TestSeed());
  // Before the changes begin something lies in HBM.
  const std::vector<uint32_t> first = RandomIds(random, checkpoint, 1000);
  GpuReader::Result result;
  ASSERT_TRUE(Comes([&] {
    ExpectStep(*reader, checkpoint, 1, first, &result);
    return result.hbm_rows > 100;
  }));
  uint64_t from_hbm = 0;
  for (int round = 0; round < 150; ++round) {
    // A popular set that moves, so that rows are exchanged.
    std::vector<uint32_t> ids = RandomIds(random, checkpoint, 1000);
    for (size_t i = 0; i < 700; ++i) {
      ids[i] = static_cast<uint32_t>((round / 30 * 1500 + random() % 1500) % checkpoint.rows[0]);
    }
    if (round % 25 == 10) {
      v1::SetDramBudgetRequest budget;
      budget.set_bytes(round % 50 == 10 ? uint64_t{1} << 20 : uint64_t{4} << 20);
      ASSERT_TRUE(admin_->SetDramBudget(budget).ok());
    }
    ExpectStep(*reader, checkpoint, 1, ids, &result);
    from_hbm += result.hbm_rows;
  }
  EXPECT_GT(from_hbm, 0u);
}

TEST_P(HbmTest, SaysWhatIsWrong) {
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 9);
  Start();
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  EXPECT_EQ(TryOpen(3, GpuOutput::kRaw).status().message(), "table 't' has no layer 3");
  const std::unique_ptr<GpuReader> reader = Open(1);
  const auto far = Step(*reader, {0xFFFFFFFEu});
  EXPECT_EQ(far.status().code(), absl::StatusCode::kInvalidArgument) << far.status();
  EXPECT_NE(far.status().message().find("4294967294"), std::string::npos) << far.status();
  const auto many = reader->Enqueue(nullptr, kMaxRows + 1, out_->data(), stream_->handle());
  EXPECT_EQ(many.code(), absl::StatusCode::kInvalidArgument) << many;
}

class HbmOffTest : public DaemonFixture {};

// As on most machines: no GPU, and a budget all the same.
TEST_F(HbmOffTest, WithoutAGpuTheTierIsOffAndReadersGoOn) {
  std::unique_ptr<Backend> cuda;
  if (gpu_cache::OpenCuda(0, cuda).ok()) GTEST_SKIP() << "there is a GPU";
  const TestCheckpoint checkpoint = MakeCheckpoint("ckpt", 500, 10);
  StartDaemon({"--hbm=1GiB"});
  ASSERT_TRUE(Load("t", checkpoint.directory).ok());
  const auto stats = admin_->Stats();
  ASSERT_TRUE(stats.ok());
  const std::string note = stats->tables(0).layers(0).tiers().hbm().note();
  EXPECT_EQ(note.rfind("off: ", 0), 0u) << note;
  GpuReaderOptions options;
  options.client.target = daemon_->target();
  options.table = "t";
  options.layer = 1;
  options.max_rows = 10;
  EXPECT_EQ(GpuReader::Open(options).status().code(), absl::StatusCode::kFailedPrecondition);
  options.host_memory = true;
  auto reader = GpuReader::Open(options);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const std::vector<uint32_t> ids = {1, 2, 3, kDeadPosition};
  std::vector<std::byte> out(4 * kRowBytes);
  ASSERT_TRUE((*reader)->Refresh(nullptr).ok());
  ASSERT_TRUE((*reader)->Enqueue(ids.data(), 4, out.data(), nullptr).ok());
  const auto result = (*reader)->Complete(out.data(), nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->hbm_rows, 0u);
  ExpectRows(checkpoint, 1, ids, out);
  EXPECT_NE((*reader)->note().find("HBM: not used: off: "), std::string::npos) << (*reader)->note();
}

INSTANTIATE_TEST_SUITE_P(Devices, HbmTest, ::testing::Values("host", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace engram::testing
