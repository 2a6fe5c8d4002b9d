// CUDA's virtual memory management: memory that other processes map with the rights that they are
// given. For backend_cuda.cc alone. The driver's functions are looked up when they are first
// needed, so that a program which links this starts where there is no driver.
#ifndef ENGRAM_GPU_CACHE_DRIVER_MEMORY_H_
#define ENGRAM_GPU_CACHE_DRIVER_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "gpu_cache/status.h"

namespace engram::gpu_cache {

// Device memory mapped in this process; unmapped with the object. The memory itself lives until the
// last process that has it mapped, or its descriptor, lets go.
class DriverMemory {
 public:
  virtual ~DriverMemory() = default;
  virtual std::byte* data() const = 0;
  virtual int fd() const = 0;  // of memory that was made here; else −1
};

// What allocations of this device are multiples of; 0 if it has no such memory.
uint64_t DriverMemoryUnit(int device);

// kExhausted, kUnsupported. `bytes` is a multiple of the unit.
Status AllocateDriverMemory(int device, uint64_t bytes, std::unique_ptr<DriverMemory>& out);

// Maps another process' memory, for reading only. kInvalid: the descriptor is none of those.
Status ImportDriverMemory(int device, int fd, uint64_t bytes, std::unique_ptr<DriverMemory>& out);

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_DRIVER_MEMORY_H_
