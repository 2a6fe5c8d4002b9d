// What another process needs to map an arena: the daemon sends it, a worker imports by it. Plain
// values.
#ifndef ENGRAM_GPU_CACHE_ARENA_EXPORT_H_
#define ENGRAM_GPU_CACHE_ARENA_EXPORT_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace engram::gpu_cache {

enum class MemoryKind : uint32_t {
  kHost = 1,     // a file in memory, sealed: its descriptor gives read access only
  kCudaVmm = 2,  // CUDA virtual memory; its descriptor is a handle, mapped read-only by workers
  kCudaIpc = 3,  // cudaMalloc and an IPC handle: every importer can write
};
const char* MemoryKindName(MemoryKind kind);  // "host memory", "CUDA VMM", "CUDA IPC"

inline constexpr size_t kIpcHandleBytes = 64;
inline constexpr size_t kDeviceIdBytes = 16;

// Beside the descriptor.
struct ArenaExport {
  MemoryKind kind = MemoryKind::kHost;
  uint64_t bytes = 0;
  std::array<uint8_t, kDeviceIdBytes> device_id{};    // the GPU's UUID; zeros: none
  std::array<uint8_t, kIpcHandleBytes> ipc_handle{};  // kCudaIpc
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_ARENA_EXPORT_H_
