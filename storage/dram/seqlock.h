// The read of rows that a writer may change meanwhile, defined once for the daemon, for clients and
// for GPUs: probe, copy, validate (a sequence lock; Boehm, "Can seqlocks get along with programming
// language memory models?", MSPC 2012).
//
//   probe     load a set's version (acquire), and find the row's tag in its line
//   copy      load the row's words (relaxed)
//   validate  FenceReads, then load the version again: the same and even, and all that was loaded
//             belongs to one state of the set
//
// The writer (row_cache_writes.cc) makes the version odd, fences (release), stores, and makes it
// even again (release); FenceReads pairs with its fence.
//
// Loads are relaxed and of whole words. On a GPU they have the scope of the whole system, which
// also keeps them out of the first-level cache, for the writer may be a processor on the other side
// of PCIe or a kernel of another process. reader.h finds rows in a layer and reads them one at a
// time, gather.h in batches; gpu_cache/gather_rows.h and gather_warp.h are the GPU's.
//
// Any thread; nothing here waits, allocates or writes. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_SEQLOCK_H_
#define ENGRAM_STORAGE_DRAM_SEQLOCK_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "storage/dram/layout.h"

#if defined(__CUDACC__)
#define ENGRAM_HD __host__ __device__ __forceinline__
#else
#define ENGRAM_HD inline
#endif

#if defined(__SANITIZE_THREAD__)
#define ENGRAM_DRAM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ENGRAM_DRAM_TSAN 1
#endif
#endif

// Vector loads of shared words. The C++ memory model has no vector atomics, but on x86-64 every
// aligned 8-byte part of a vector load is read whole and loads are not reordered with loads, which
// is all that relaxed word loads promise; being volatile assembly keeps the compiler from
// splitting, repeating or dropping them, and the fences keep it from moving them. (Not a volatile
// __m256i_u: g++ 12 forgets that it may be unaligned, and a row seldom lies on 32 bytes.)
// With word loads a gather of 264-byte rows is 1.6 times slower. ThreadSanitizer builds, other
// processors and the host's side of CUDA sources use the word loads.
#if defined(__AVX2__) && !defined(ENGRAM_DRAM_TSAN) && !defined(__CUDACC__)
#include <immintrin.h>
#define ENGRAM_DRAM_VECTOR 1
#endif

namespace engram::dram {

#ifdef ENGRAM_PLANT_RACE
inline constexpr bool kBelieveAnything = true;  // only in a test that proves that it would notice
#else
inline constexpr bool kBelieveAnything = false;
#endif

ENGRAM_HD uint64_t Load64(const uint64_t* word) {
#if defined(__CUDA_ARCH__)
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word));
  return value;
#else
  return __atomic_load_n(word, __ATOMIC_RELAXED);
#endif
}

ENGRAM_HD uint32_t Load32(const uint32_t* word) {
#if defined(__CUDA_ARCH__)
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word));
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
ENGRAM_HD void FenceReads(bool whole_system = true) {
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

// Whether no writer had the set when it had this version.
ENGRAM_HD bool IsAtRest(uint32_t version) { return version % 2 == 0; }

// Validate. Whether all that was read between a look at this version word, which showed `seen`, and
// the FenceReads that comes before this call belongs to one state of the set.
ENGRAM_HD bool IsUnchanged(const uint32_t* version, uint32_t seen) {
  return IsAtRest(seen) && (kBelieveAnything || Load32(version) == seen);
}

// The first way of those whose bits are set; −1: none.
ENGRAM_HD int FirstWay(uint32_t ways) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(ways)) - 1;
#else
  return ways == 0 ? -1 : __builtin_ctz(ways);
#endif
}
// The way by the bits of a tag line's words that match, the first word's lowest. That one is the
// version's, and means nothing.
ENGRAM_HD int WayInLine(uint32_t words) { return FirstWay(words >> 1); }

// Word w of a row, as every tier stores it: whole words, whatever row_bytes is.
ENGRAM_HD uint64_t RowWord(const std::byte* row, uint32_t word) {
  return Load64(reinterpret_cast<const uint64_t*>(row) + word);
}

#ifdef ENGRAM_DRAM_VECTOR
// 32 bytes from 8-byte aligned memory that others may be writing.
inline __m256i LoadShared(const uint64_t* words) {
  __m256i value;
  asm volatile("vmovdqu %1, %0" : "=x"(value) : "m"(*reinterpret_cast<const __m256i_u*>(words)));
  return value;
}
#endif

// The way of the line that holds `tag`, or −1.
inline int MatchWay(const TagLine& line, uint32_t tag) {
#ifdef ENGRAM_DRAM_VECTOR
  const auto* words = reinterpret_cast<const uint64_t*>(&line);
  const __m256i wanted = _mm256_set1_epi32(static_cast<int>(tag));
  const __m256i low = _mm256_cmpeq_epi32(LoadShared(words), wanted);
  const __m256i high = _mm256_cmpeq_epi32(LoadShared(words + 4), wanted);
  return WayInLine(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(low))) |
                   static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(high))) << 8);
#else
  for (uint32_t way = 0; way < kWays; ++way) {
    if (Load32(&line.tags[way]) == tag) return static_cast<int>(way);
  }
  return -1;
#endif
}

// Probe, on a processor.
struct Probe {
  uint32_t version = 0;  // of the set before its tags were read
  int way = -1;          // −1: the row is not in the set
};
inline Probe ProbeSet(const TagLine& line, uint32_t tag) {
  // Acquire: what is read of the set from here on is at least as new as this version.
  const uint32_t version = __atomic_load_n(&line.version, __ATOMIC_ACQUIRE);
  return {version, MatchWay(line, tag)};
}

// Copy, on a processor: a row's bytes to `out`, any alignment. `kRowBytes` is `row_bytes` where the
// caller knows it while it is compiled, which makes gathers a sixth faster; else 0.
template <uint32_t kRowBytes = 0>
__attribute__((always_inline)) inline void CopyRow(const std::byte* row, uint32_t row_bytes,
                                                   std::byte* out) {
  const auto* source = reinterpret_cast<const uint64_t*>(row);
  uint64_t left = kRowBytes == 0 ? row_bytes : kRowBytes;
#ifdef ENGRAM_DRAM_VECTOR
  // Four at a time: with fewer instructions a row the core sees more rows at once.
  for (; left >= 128; left -= 128, source += 16, out += 128) {
    const __m256i a = LoadShared(source);
    const __m256i b = LoadShared(source + 4);
    const __m256i c = LoadShared(source + 8);
    const __m256i d = LoadShared(source + 12);
    auto* to = reinterpret_cast<__m256i_u*>(out);
    _mm256_storeu_si256(to + 0, a);
    _mm256_storeu_si256(to + 1, b);
    _mm256_storeu_si256(to + 2, c);
    _mm256_storeu_si256(to + 3, d);
  }
  for (; left >= 32; left -= 32, source += 4, out += 32) {
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(out), LoadShared(source));
  }
#endif
  for (; left >= 8; left -= 8, ++source, out += 8) {
    const uint64_t word = Load64(source);
    std::memcpy(out, &word, 8);
  }
  if (left > 0) {  // the slot is whole words, the row is not
    const uint64_t word = Load64(source);
    std::memcpy(out, &word, left);
  }
}

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_SEQLOCK_H_
