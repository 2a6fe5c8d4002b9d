// The daemon's arena: which layer has which region of it, which row lies in which slot, and how
// rows come and go while workers read (arena_layout.h has the rules).
//
// What each slot holds is remembered here too, 4 bytes a slot of this process' memory, so nothing
// is ever read back to find out. One thread at a time. After a call that failed with kUnavailable
// the device is gone: the arena is to be destroyed.
#ifndef ENGRAM_GPU_CACHE_ARENA_H_
#define ENGRAM_GPU_CACHE_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "gpu_cache/arena_backend.h"
#include "gpu_cache/arena_layout.h"
#include "gpu_cache/status.h"

namespace engram::gpu_cache {

class Arena {
 public:
  // All of `budget_bytes`, down to whole allocation units, header and indices included. kInvalid:
  // that is less than one unit. Else as ArenaBackend::Allocate.
  static Status Create(ArenaBackend& backend, uint64_t budget_bytes, MemoryKind kind,
                       std::unique_ptr<Arena>& out);

  const ArenaMemory& memory() const { return *memory_; }
  uint64_t bytes() const { return memory_->description().bytes; }

  struct LayerShare {
    uint32_t stack_id = 0;
    uint32_t row_bytes = 0;
    uint64_t layer_rows = 0;
    uint64_t weight = 1;  // it gets this part of all weights
  };
  // Repartitions the arena among these layers, at most kMaxRegions. Layers that are absent are
  // evicted: readers find nothing there from then on. Unchanged ones keep their rows, all others
  // restart empty. A layer that gets less than a sector gets none.
  Status ShareOut(std::span<const LayerShare> layers);

  struct RegionState {
    uint32_t region = 0;
    RegionShape shape;
    std::vector<uint32_t> tags;  // of each slot; kEmptyTag: empty
    uint64_t rows = 0;           // slots that are not empty
    uint64_t index_offset = 0;   // in the arena
    uint64_t rows_offset = 0;
  };
  // Null: it has no region. Valid until the next ShareOut.
  const RegionState* Find(uint32_t stack_id) const;

  struct WriteSlot {
    uint64_t slot = 0;  // empty, or emptied by the same call; of the row's sector
    uint32_t row_id = 0;
  };
  // Empties slots, and puts rows[i * row_bytes …] as puts[i]. Readers meanwhile find a row whole or
  // not at all; what they are copying from an emptied slot they look for again. Requires that the
  // layer has a region.
  Status Replace(uint32_t stack_id, std::span<const uint64_t> emptied,
                 std::span<const WriteSlot> puts, std::span<const std::byte> rows);

  // What lies in these slots, for checking.
  Status Read(uint32_t stack_id, std::span<const uint64_t> slots, std::span<std::byte> rows);

 private:
  explicit Arena(std::unique_ptr<ArenaMemory> memory) : memory_(std::move(memory)) {}
  std::map<uint32_t, RegionState> Plan(std::span<const LayerShare> layers) const;
  Status Retire(uint32_t region);
  Status Activate(uint32_t stack_id, RegionState& held);
  Status WriteSectors(const RegionState& held, std::span<const uint64_t> slots);

  static uint64_t EpochOffset(uint32_t region);

  const std::unique_ptr<ArenaMemory> memory_;
  std::map<uint32_t, RegionState> layers_;  // by stack
  uint64_t epochs_[kMaxRegions] = {};
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_ARENA_H_
