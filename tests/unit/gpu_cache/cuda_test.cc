// What only a GPU can show: graphs, memory that cannot be written by those who import it, streams
// that do not wait for the daemon's.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "gpu_cache/backend.h"
#include "tests/test_seed.h"
#include "tests/unit/gpu_cache/gather_rig.h"

namespace engram::gpu_cache {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    const Status status = rig_.Open("cuda");
    if (!status.ok()) GTEST_SKIP() << status.message();
  }
  void Prepare(uint32_t rows) {
    rig_.MakeArena(64 * kMiB);
    rig_.ShareOut(264, 1000000);
    std::vector<uint32_t> wanted(rows);
    for (uint32_t i = 0; i < rows; ++i) wanted[i] = i;
    held_ = rig_.Put(wanted);
  }
  GatherRig rig_;
  std::vector<uint32_t> held_;
};

TEST_F(GpuTest, AGraphGathersWhatItsIdsSayAtEachReplay) {
  Prepare(50000);
  constexpr uint32_t kCount = 768;
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = kCount, .output = Output::kBf16});
  auto* const stream = static_cast<cudaStream_t>(rig_.stream->handle());
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  Check(rig_.gatherer->Enqueue(reinterpret_cast<const uint32_t*>(rig_.ids_buffer->data()), kCount,
                               rig_.out_buffer->data(), stream));
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  size_t nodes = 0;
  ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_EQ(nodes, 1u) << "a gather is one kernel";
  cudaGraphExec_t replay = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 100; ++round) {
    rig_.ids.resize(kCount);
    for (uint32_t& id : rig_.ids) id = held_[random() % held_.size()];
    rig_.ids[0] = 999999;
    Check(rig_.ids_buffer->Upload(0, std::as_bytes(std::span(rig_.ids))));
    ASSERT_EQ(cudaGraphLaunch(replay, stream), cudaSuccess);
    Check(rig_.gatherer->Wait(stream));
    rig_.Fetch();
    EXPECT_EQ(rig_.Missing(), std::vector<uint32_t>{0});
    for (uint32_t i = 1; i < kCount; ++i) {
      const std::vector<std::byte> expected = Expected(RowOf(rig_.ids[i], 264), Output::kBf16);
      const auto got = rig_.OutRow(i);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin())) << i;
    }
  }
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

TEST_F(GpuTest, RowsComeAndGoWhileKernelsRead) {
  rig_.MakeArena(4 * kMiB);
  rig_.ShareOut(264, 1000000);
  constexpr uint32_t kCount = 20000;
  rig_.MakeGatherer({.row_bytes = 264, .max_rows = kCount});
  std::mt19937_64 random(TestSeed());
  const Arena::RegionState& held = *rig_.arena->Find(GatherRig::kStack);
  for (int round = 0; round < 300; ++round) {
    rig_.ids.resize(kCount);
    for (uint32_t& id : rig_.ids) id = static_cast<uint32_t>(random() % 20000);
    Check(rig_.ids_buffer->Upload(0, std::as_bytes(std::span(rig_.ids))));
    Check(rig_.gatherer->Enqueue(reinterpret_cast<const uint32_t*>(rig_.ids_buffer->data()), kCount,
                                 rig_.out_buffer->data(), rig_.stream->handle()));
    // While it runs, a hundred sectors get other rows.
    std::vector<uint64_t> emptied;
    std::vector<Arena::WriteSlot> puts;
    std::vector<std::byte> rows;
    for (uint32_t i = 0; i < 100; ++i) {
      const auto id = static_cast<uint32_t>(random() % 20000);
      const uint64_t slot = uint64_t{SectorOf(id, held.shape.sectors, false)} * kWays;
      if (std::find(emptied.begin(), emptied.end(), slot) != emptied.end()) continue;
      bool there = false;
      for (uint64_t way = 0; way < kWays; ++way) there |= held.tags[slot + way] == TagOf(id);
      if (there) continue;
      emptied.push_back(slot);
      puts.push_back({.slot = slot, .row_id = id});
      const std::vector<std::byte> row = RowOf(id, 264);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    Check(rig_.arena->Replace(GatherRig::kStack, emptied, puts, rows));
    Check(rig_.gatherer->Wait(rig_.stream->handle()));
    rig_.Fetch();
    std::vector<bool> missing(kCount);
    for (const uint32_t position : rig_.Missing()) missing[position] = true;
    for (uint32_t i = 0; i < kCount; ++i) {
      const std::vector<std::byte> expected =
          missing[i] ? std::vector<std::byte>(264) : RowOf(rig_.ids[i], 264);
      const auto got = rig_.OutRow(i);
      ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.begin())) << i;
    }
  }
  EXPECT_GT(rig_.gatherer->report().hbm_rows, 0u);
}

// In a process of its own, for a device that was made to fault is of no more use to its process.
TEST_F(GpuTest, WhatIsImportedCannotBeWritten) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  rig_.MakeArena(4 * kMiB);
  EXPECT_EQ(rig_.arena->memory().description().kind, MemoryKind::kCudaVmm);
  const auto write = [&](const std::byte* to) {
    const bool failed = cudaMemset(const_cast<std::byte*>(to), 0xFF, 4096) != cudaSuccess ||
                        cudaDeviceSynchronize() != cudaSuccess;
    std::exit(failed ? 3 : 4);
  };
  EXPECT_EXIT(write(rig_.imported->data()), testing::ExitedWithCode(3), "");
  EXPECT_EXIT(write(rig_.OwnMemory(4096)), testing::ExitedWithCode(4), "");
}

TEST_F(GpuTest, NoMoreMemoryIsAskedForThanThereIs) {
  const uint64_t unit = rig_.backend->AllocationUnit();
  const uint64_t too_much = (rig_.backend->FreeBytes() + 64 * kMiB) / unit * unit;
  std::unique_ptr<Arena> arena;
  EXPECT_EQ(Arena::Create(*rig_.backend, too_much, MemoryKind::kCudaVmm, arena).code(),
            Code::kExhausted);
  Prepare(1000);  // and it goes on working
  EXPECT_EQ(held_.size(), 1000u);
}

TEST(CudaTest, SaysWhatIsMissing) {
  std::unique_ptr<Backend> backend;
  const Status status = OpenCuda(1000, backend);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(status.message().empty());
}

}  // namespace
}  // namespace engram::gpu_cache
