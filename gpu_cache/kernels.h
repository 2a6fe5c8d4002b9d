// The kernels, as functions that put one on a stream. For backend_cuda.cc and
// gatherer_cuda.cc alone.
#ifndef ENGRAM_GPU_CACHE_KERNELS_H_
#define ENGRAM_GPU_CACHE_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "gpu_cache/gather.h"

namespace engram::gpu_cache {

// One gather. `row_bytes` is what args.source says; `processors` is the device's number of
// multiprocessors.
cudaError_t LaunchGather(const GatherArgs& args, uint32_t row_bytes, int processors,
                         cudaStream_t stream);

// As ArenaMemory::Scatter and Collect, of `count` records; offsets and records lie where the device
// can read and write them, records at multiples of RowStride(record_bytes).
cudaError_t LaunchScatter(std::byte* arena, const uint64_t* offsets, uint32_t record_bytes,
                          const std::byte* records, uint32_t count, cudaStream_t stream);
cudaError_t LaunchCollect(const std::byte* arena, const uint64_t* offsets, uint32_t record_bytes,
                          std::byte* records, uint32_t count, cudaStream_t stream);

// As ArenaMemory::Publish.
cudaError_t LaunchPublish(uint64_t* word, uint64_t value, cudaStream_t stream);

// Puts row i, which lies at i × RowStride(row_bytes) of `rows`, to position positions[i] of `out`.
cudaError_t LaunchComplete(const uint32_t* positions, const std::byte* rows, uint32_t row_bytes,
                           Output output, std::byte* out, uint32_t count, cudaStream_t stream);

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_KERNELS_H_
