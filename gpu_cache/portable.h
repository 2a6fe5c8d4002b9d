// What the tier's row logic needs so that the same functions run in a kernel and on a processor:
// reading memory that somebody else may be writing, and fences.
//
// All readers of shared memory here follow one rule (a sequence lock): load a version, load what it
// covers, fence, load the version again; the same and even, and what was loaded belongs together.
// Loads are relaxed and of whole words; on a GPU with the scope of the whole system, which also
// keeps them out of the first-level cache, for the writer may be a kernel of another process (the
// arena) or a processor on the other side of PCIe (the DRAM tier).
#ifndef ENGRAM_GPU_CACHE_PORTABLE_H_
#define ENGRAM_GPU_CACHE_PORTABLE_H_

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define ENGRAM_HD __host__ __device__ __forceinline__
#else
#define ENGRAM_HD inline
#endif

namespace engram::gpu_cache {

ENGRAM_HD uint64_t Load64(const uint64_t* word) {
#if defined(__CUDA_ARCH__)
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
#else
  return __atomic_load_n(word, __ATOMIC_RELAXED);
#endif
}

ENGRAM_HD uint32_t Load32(const uint32_t* word) {
#if defined(__CUDA_ARCH__)
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
#else
  return __atomic_load_n(word, __ATOMIC_RELAXED);
#endif
}

// What is read after it is at least as new as the word that it gives.
ENGRAM_HD uint64_t LoadAcquire64(const uint64_t* word) {
#if defined(__CUDA_ARCH__)
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
#else
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
#endif
}

// What is read after it is at least as new as what was read before it. `whole_system`: also of
// memory that processors write; else only of this GPU's own memory.
ENGRAM_HD void FenceReads(bool whole_system) {
#if defined(__CUDA_ARCH__)
  if (whole_system) {
    asm volatile("fence.acq_rel.sys;" ::: "memory");
  } else {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
  }
#else
  (void)whole_system;
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_PORTABLE_H_
