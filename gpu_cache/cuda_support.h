// What the CUDA sources share: errors as Status, and memory that frees itself.
#ifndef ENGRAM_GPU_CACHE_CUDA_SUPPORT_H_
#define ENGRAM_GPU_CACHE_CUDA_SUPPORT_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>

#include "gpu_cache/gather_backend.h"
#include "gpu_cache/status.h"

namespace engram::gpu_cache {

// kOk for cudaSuccess. An error that a kernel left behind, or a device that was reset, is
// kUnavailable: nothing works on this device any more, in this process.
inline Status FromCuda(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  const Code code = error == cudaErrorMemoryAllocation || error == cudaErrorLaunchOutOfResources
                        ? Code::kExhausted
                    : error == cudaErrorInvalidValue ? Code::kInvalid
                    : error == cudaErrorNotSupported ? Code::kUnsupported
                                                     : Code::kUnavailable;
  return {code, std::string(what) + ": " + cudaGetErrorString(error) + " (" +
                    cudaGetErrorName(error) + ")"};
}

struct FreeDevice {
  void operator()(void* memory) const { cudaFree(memory); }
};
struct FreePinned {
  void operator()(void* memory) const { cudaFreeHost(memory); }
};
template <typename T>
using DeviceArray = std::unique_ptr<T[], FreeDevice>;
template <typename T>
using PinnedArray = std::unique_ptr<T[], FreePinned>;

template <typename T>
Status AllocateDevice(size_t count, DeviceArray<T>& out) {
  void* memory = nullptr;
  ENGRAM_GPU_RETURN_IF_ERROR(
      FromCuda("allocating GPU memory", cudaMalloc(&memory, count * sizeof(T))));
  out.reset(static_cast<T*>(memory));
  return FromCuda("clearing GPU memory", cudaMemset(memory, 0, count * sizeof(T)));
}

// Host memory that the device reads and writes under the same address.
template <typename T>
Status AllocatePinned(size_t count, PinnedArray<T>& out) {
  void* memory = nullptr;
  ENGRAM_GPU_RETURN_IF_ERROR(FromCuda(
      "allocating pinned memory",
      cudaHostAlloc(&memory, count * sizeof(T), cudaHostAllocMapped | cudaHostAllocPortable)));
  out.reset(static_cast<T*>(memory));
  for (size_t i = 0; i < count; ++i) out[i] = T{};
  return {};
}

// gatherer_cuda.cc. The device is the calling thread's current one.
Status MakeCudaGatherer(int device, int processors, const GathererOptions& options,
                        std::unique_ptr<Gatherer>& out);

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_CUDA_SUPPORT_H_
