// The daemon's role towards a device: it allocates an arena, exports it, and writes to it. A
// worker's role is gather_backend.h; backend.h opens devices that play both.
//
// Every call that fails says why; a device that was lost or reset gives kUnavailable from then on,
// and the daemon goes on without the tier.
//
// Threads: a backend may be used by any, an arena's memory by one at a time. Calls return when the
// work is done; none waits for another process.
#ifndef ENGRAM_GPU_CACHE_ARENA_BACKEND_H_
#define ENGRAM_GPU_CACHE_ARENA_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "gpu_cache/arena_export.h"
#include "gpu_cache/status.h"

namespace engram::gpu_cache {

// An arena's memory. Zeroed when it is made. Offsets and sizes are multiples of 8 unless something
// else is said, and lie within it.
class ArenaMemory {
 public:
  virtual ~ArenaMemory() = default;

  virtual const ArenaExport& description() const = 0;
  // For other processes; −1 for kCudaIpc. It belongs to the memory.
  virtual int export_fd() const = 0;

  virtual Status Clear(uint64_t offset, uint64_t bytes) = 0;
  virtual Status Write(uint64_t offset, std::span<const std::byte> bytes) = 0;
  // Release store followed by a release fence: nothing written later is seen before the word.
  virtual Status Publish(uint64_t offset, uint64_t word) = 0;
  // Puts records[i * record_bytes …] at offsets[i], each by whole words: of a record that is not
  // whole words the last one is filled with zeros.
  virtual Status Scatter(std::span<const uint64_t> offsets, uint32_t record_bytes,
                         std::span<const std::byte> records) = 0;
  // The other way round.
  virtual Status Collect(std::span<const uint64_t> offsets, uint32_t record_bytes,
                         std::span<std::byte> records) = 0;
};

// A device that an arena can lie in.
class ArenaBackend {
 public:
  virtual ~ArenaBackend() = default;

  virtual std::string name() const = 0;  // "NVIDIA H200", "host memory"
  // Memory that an arena could have now.
  virtual uint64_t FreeBytes() const = 0;
  // An arena is a multiple of this.
  virtual uint64_t AllocationUnit() const = 0;
  // kExhausted: not enough free memory. kUnsupported: the device has no memory of this kind.
  virtual Status Allocate(uint64_t bytes, MemoryKind kind, std::unique_ptr<ArenaMemory>& out) = 0;
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_ARENA_BACKEND_H_
