// A small worker and its daemon in one process: an arena, its import, a gatherer, and buffers, on a
// backend that a test names. Rows are derived from their ids, so every byte can be checked.
#ifndef ENGRAM_TESTS_UNIT_GPU_CACHE_GATHER_RIG_H_
#define ENGRAM_TESTS_UNIT_GPU_CACHE_GATHER_RIG_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gpu_cache/arena.h"
#include "gpu_cache/backend.h"
#include "gpu_cache/dequantise.h"
#include "tests/unit/gpu_cache/warp_on_threads.h"

namespace engram::gpu_cache {

// splitmix64 over the id and the word's place.
inline std::vector<std::byte> RowOf(uint32_t id, uint32_t row_bytes) {
  std::vector<std::byte> row(row_bytes);
  for (uint32_t at = 0; at < row_bytes; at += 8) {
    uint64_t x = (uint64_t{id} << 32 | at) + 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    x ^= x >> 31;
    std::memcpy(&row[at], &x, std::min<uint32_t>(8, row_bytes - at));
  }
  return row;
}

// What the output holds for a row: plainly, value by value.
inline std::vector<std::byte> Expected(std::span<const std::byte> row, Output output) {
  if (output == Output::kRaw) return {row.begin(), row.end()};
  const uint32_t values = QuantisedValues(static_cast<uint32_t>(row.size()));
  std::vector<std::byte> out(values * 2);
  for (uint32_t i = 0; i < values; ++i) {
    const uint16_t bf16 =
        Dequantise(std::to_integer<uint8_t>(row[i]),
                   ScaleOf(std::to_integer<uint8_t>(row[values + i / kScaleBlock])));
    std::memcpy(&out[i * 2], &bf16, 2);
  }
  return out;
}

inline void Check(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }

struct GatherRig {
  static constexpr uint32_t kStack = 7;

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<MappedMemory> imported;
  std::unique_ptr<Gatherer> gatherer;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<DeviceBuffer> ids_buffer;
  std::unique_ptr<DeviceBuffer> out_buffer;
  GathererOptions options;
  std::vector<uint32_t> ids;
  std::vector<std::byte> out;

  // "host"; "warps": the kernels' code, on this machine's processors; "cuda", or why there is none.
  Status Open(const std::string& name) {
    if (name == "cuda") return OpenCuda(0, backend);
    backend = name == "warps" ? HostBackend(&GatherOnThreads) : HostBackend();
    return {};
  }

  MemoryKind kind() const {
    return backend->name() == "host memory" ? MemoryKind::kHost : MemoryKind::kCudaVmm;
  }

  void MakeArena(uint64_t bytes) {
    Check(Arena::Create(*backend, bytes, kind(), arena));
    Check(backend->Import(arena->memory().description(), arena->memory().export_fd(), imported));
  }

  void ShareOut(uint32_t row_bytes, uint64_t layer_rows) {
    const Arena::LayerShare layer{
        .stack_id = kStack, .row_bytes = row_bytes, .layer_rows = layer_rows};
    Check(arena->ShareOut({&layer, 1}));
  }

  void MakeGatherer(const GathererOptions& wanted) {
    options = wanted;
    Check(backend->MakeStream(stream));
    Check(backend->MakeGatherer(wanted, gatherer));
    Check(backend->MakeBuffer(uint64_t{wanted.max_rows} * 4, ids_buffer));
    Check(backend->MakeBuffer(wanted.max_rows * OutputRowBytes(wanted.row_bytes, wanted.output),
                              out_buffer));
    UseArena();
  }

  Source ArenaSource() const {
    Source source{.row_bytes = options.row_bytes, .dram = {}};
    if (arena == nullptr) return source;
    source.arena = imported->data();
    source.arena_bytes = arena->bytes();
    source.stack_id = kStack;
    if (const Arena::RegionState* held = arena->Find(kStack); held != nullptr) {
      source.region = held->region;
    }
    return source;
  }
  void UseArena() { Check(gatherer->SetSource(ArenaSource(), {}, {}, stream->handle())); }

  // Memory of the device that may be written.
  const std::byte* OwnMemory(uint64_t bytes) {
    Check(backend->MakeBuffer(bytes, out_buffer));
    return out_buffer->data();
  }

  // Puts rows where there is an empty slot in their sector; returns those that found one.
  std::vector<uint32_t> Put(std::span<const uint32_t> rows) {
    const Arena::RegionState& held = *arena->Find(kStack);
    std::vector<uint32_t> put;
    std::vector<Arena::WriteSlot> puts;
    std::vector<std::byte> bytes;
    std::map<uint64_t, bool> taken;
    for (const uint32_t id : rows) {
      const uint64_t sector = SectorOf(id, held.shape.sectors, held.shape.direct);
      for (uint64_t slot = sector * kWays; slot < (sector + 1) * kWays; ++slot) {
        if (held.shape.direct && slot != id) continue;
        if (held.tags[slot] != kEmptyTag || taken[slot]) continue;
        taken[slot] = true;
        puts.push_back({.slot = slot, .row_id = id});
        const std::vector<std::byte> row = RowOf(id, held.shape.row_bytes);
        bytes.insert(bytes.end(), row.begin(), row.end());
        put.push_back(id);
        break;
      }
    }
    Check(arena->Replace(kStack, {}, puts, bytes));
    return put;
  }

  void Launch() {
    // Whatever was there before must not pass for a row.
    std::vector<std::byte> noise(ids.size() * OutputRowBytes(options.row_bytes, options.output),
                                 std::byte{0xA5});
    Check(out_buffer->Upload(0, noise));
    Check(ids_buffer->Upload(0, std::as_bytes(std::span(ids))));
    Check(gatherer->Enqueue(reinterpret_cast<const uint32_t*>(ids_buffer->data()),
                            static_cast<uint32_t>(ids.size()), out_buffer->data(),
                            stream->handle()));
    Check(gatherer->Wait(stream->handle()));
    Fetch();
  }

  void Fetch() {
    out.resize(ids.size() * OutputRowBytes(options.row_bytes, options.output));
    Check(out_buffer->Download(0, out));
  }

  std::span<const std::byte> OutRow(size_t position) const {
    const uint64_t bytes = OutputRowBytes(options.row_bytes, options.output);
    return std::span(out).subspan(position * bytes, bytes);
  }

  // The missing positions, ascending; each with its id, each once.
  std::vector<uint32_t> Missing() const {
    std::vector<uint32_t> positions;
    for (const Miss& miss : gatherer->missing()) {
      EXPECT_LT(miss.position, ids.size());
      if (miss.position < ids.size()) {
        EXPECT_EQ(miss.row_id, ids[miss.position]);
      }
      positions.push_back(miss.position);
    }
    std::sort(positions.begin(), positions.end());
    EXPECT_EQ(std::adjacent_find(positions.begin(), positions.end()), positions.end());
    return positions;
  }
};

// A test of each backend; where there is no GPU the last one is skipped.
class BackendTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const Status status = rig_.Open(GetParam());
    if (!status.ok()) GTEST_SKIP() << status.message();
  }
  GatherRig rig_;
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_TESTS_UNIT_GPU_CACHE_GATHER_RIG_H_
