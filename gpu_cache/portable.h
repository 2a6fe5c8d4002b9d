// What the tier's row logic needs beside storage/dram/seqlock.h so that the same functions run in a
// kernel and on a processor: predicated loads of memory that somebody else may be writing.
//
// A relaxed load is no barrier to the compiler, and none here branches: so that a thread may have
// many under way. A fence of a GPU waits for the thread's stores too, an acquiring load does not:
// so there is no fence behind a store that somebody waits for.
#ifndef ENGRAM_GPU_CACHE_PORTABLE_H_
#define ENGRAM_GPU_CACHE_PORTABLE_H_

#include <cstddef>
#include <cstdint>

#include "storage/dram/seqlock.h"

#if defined(__CUDACC__)
#define ENGRAM_DEVICE __device__ __forceinline__  // kernels' code, which tests run on a processor
#define ENGRAM_UNROLL _Pragma("unroll")
#define ENGRAM_NO_UNROLL _Pragma("unroll 1")
#else
#define ENGRAM_DEVICE inline
#define ENGRAM_UNROLL
#define ENGRAM_NO_UNROLL
#endif

namespace engram::gpu_cache {

using dram::FenceReads;
using dram::Load32;
using dram::Load64;
using dram::LoadAcquire64;

// 0 for null.
ENGRAM_HD uint64_t Load64OrZero(const uint64_t* word) {
#if defined(__CUDA_ARCH__)
  uint64_t value;
  asm volatile(
      "{ .reg .pred is_there; setp.ne.u64 is_there, %1, 0; mov.u64 %0, 0;"
      " @is_there ld.relaxed.sys.global.u64 %0, [%1]; }"
      : "=l"(value)
      : "l"(word));
  return value;
#else
  return word == nullptr ? 0 : Load64(word);
#endif
}

ENGRAM_HD uint32_t Load32OrZero(const uint32_t* word) {
#if defined(__CUDA_ARCH__)
  uint32_t value;
  asm volatile(
      "{ .reg .pred is_there; setp.ne.u64 is_there, %1, 0; mov.u32 %0, 0;"
      " @is_there ld.relaxed.sys.global.u32 %0, [%1]; }"
      : "=r"(value)
      : "l"(word));
  return value;
#else
  return word == nullptr ? 0 : Load32(word);
#endif
}

// Two words that lie beside each other; not as one.
struct WordPair {
  uint64_t first = 0;
  uint64_t second = 0;
};

// Zeros for null; 16-byte aligned.
ENGRAM_HD WordPair LoadPairOrZeros(const std::byte* pair) {
#if defined(__CUDA_ARCH__)
  WordPair value;
  asm volatile(
      "{ .reg .pred is_there; setp.ne.u64 is_there, %2, 0; mov.u64 %0, 0; mov.u64 %1, 0;"
      " @is_there ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2]; }"
      : "=l"(value.first), "=l"(value.second)
      : "l"(pair));
  return value;
#else
  const auto* const words = reinterpret_cast<const uint64_t*>(pair);
  if (pair == nullptr) return {};
  return {Load64(words), Load64(words + 1)};
#endif
}

// The same; what is read after it is at least as new as both words.
ENGRAM_HD WordPair LoadPairAcquireOrZeros(const std::byte* pair) {
#if defined(__CUDA_ARCH__)
  WordPair value;
  asm volatile(
      "{ .reg .pred is_there; setp.ne.u64 is_there, %2, 0; mov.u64 %0, 0; mov.u64 %1, 0;"
      " @is_there ld.acquire.sys.global.v2.u64 {%0, %1}, [%2]; }"
      : "=l"(value.first), "=l"(value.second)
      : "l"(pair)
      : "memory");
  return value;
#else
  const auto* const words = reinterpret_cast<const uint64_t*>(pair);
  if (pair == nullptr) return {};
  return {__atomic_load_n(words, __ATOMIC_ACQUIRE), __atomic_load_n(words + 1, __ATOMIC_ACQUIRE)};
#endif
}

// The same number, computed from nothing that the compiler knows: what follows from it is computed
// where it is needed, and not kept in a register for each of many words.
ENGRAM_HD uint32_t Opaque(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_PORTABLE_H_
