// The read side of a row cache: find a row's way, copy the row, and check that nobody changed the
// set meanwhile (a sequence lock; Boehm, "Can seqlocks get along with programming language memory
// models?", MSPC 2012).
//
// View borrows memory laid out as layout.h says. Any number of threads may read while others
// write; a reader never waits and never writes, except for a used-bit where MarkUsed is called.
// Only the standard library: a process that maps the memory read-only can use it as well.
//
//   const Found found = view.Find(id);
//   if (found.way >= 0) {
//     view.Copy(found, out);
//     if (view.Unchanged(found)) … out holds the row; otherwise out holds garbage: try again.
//   }
#ifndef ENGRAM_STORAGE_DRAM_READER_H_
#define ENGRAM_STORAGE_DRAM_READER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "storage/dram/layout.h"

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
// __m256i_u: g++ 12 forgets that such a one may be unaligned, and a row seldom lies on 32 bytes.)
// With word loads a gather of 264-byte rows is 1.6 times slower. ThreadSanitizer builds and other
// processors use the word loads.
#if defined(__AVX2__) && !defined(ENGRAM_DRAM_TSAN) && !defined(ENGRAM_DRAM_SCALAR)
#include <immintrin.h>
#define ENGRAM_DRAM_VECTOR 1
#endif

namespace engram::dram {

// Where a row was found, and the version of its set at that time.
struct Found {
  uint32_t set = 0;
  uint32_t version = 0;
  int way = -1;  // −1: not held
};

class View {
 public:
  View() = default;
  // `memory` is geometry.MappedBytes() long, aligned to kPageBytes, and outlives the view.
  View(std::byte* memory, const Geometry& geometry)
      : geometry_(geometry),
        stride_(geometry.RowStride()),
        lines_(reinterpret_cast<TagLine*>(memory)),
        states_(reinterpret_cast<uint64_t*>(memory + geometry.StateOffset())),
        rows_(memory + geometry.RowsOffset()) {}

  const Geometry& geometry() const { return geometry_; }
  uint32_t SetOf(uint32_t row_id) const { return geometry_.SetOf(row_id); }
  TagLine& line(uint32_t set) const { return lines_[set]; }
  uint64_t& state(uint32_t set) const { return states_[set]; }
  uint64_t* row(uint32_t set, int way) const {
    return reinterpret_cast<uint64_t*>(rows_ + (uint64_t{set} * kWays + way) * stride_);
  }

  // always_inline: g++ 12 takes a function of prefetches alone for one without effect, and drops
  // calls of it.
  __attribute__((always_inline)) void PrefetchSet(uint32_t set) const {
    __builtin_prefetch(&lines_[set]);
    if (!geometry_.resident) __builtin_prefetch(&states_[set]);
  }
  // The first lines of a row; the processor itself runs ahead in what is longer.
  __attribute__((always_inline)) void PrefetchRow(const Found& found) const {
    constexpr uint64_t kMostBytes = 16 * kLineBytes;
    const auto begin = reinterpret_cast<uintptr_t>(row(found.set, found.way));
    const uintptr_t end = begin + (stride_ < kMostBytes ? stride_ : kMostBytes);
    for (uintptr_t at = begin & ~(kLineBytes - 1); at < end; at += kLineBytes) {
      // Into the second-level cache: some 14 % faster than into the first (AMD EPYC, 264-byte rows,
      // mean of seven runs in turns).
      __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
    }
  }

  // Requires set == SetOf(row_id) and row_id != kNoRowId. A set that a writer has gives an odd
  // version, and its way means nothing.
  Found Find(uint32_t row_id, uint32_t set) const {
    // Acquire: what is read of the set from here on is at least as new as this version.
    const uint32_t version = Word(lines_[set].version).load(std::memory_order_acquire);
    return {set, version, MatchWay(lines_[set], TagOf(row_id))};
  }

  // Copies the row's row_bytes bytes to `out`, any alignment. Requires found.way >= 0.
  void Copy(const Found& found, std::byte* out) const {
    uint64_t* source = row(found.set, found.way);
    uint64_t left = geometry_.row_bytes;
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
      const uint64_t word = Word(*source).load(std::memory_order_relaxed);
      std::memcpy(out, &word, 8);
    }
    if (left > 0) {  // the slot is whole words, the row is not
      const uint64_t word = Word(*source).load(std::memory_order_relaxed);
      std::memcpy(out, &word, left);
    }
  }

  // Whether all that was read since Find belongs to one state of the set.
  bool Unchanged(const Found& found) const {
#ifdef ENGRAM_PLANT_RACE
    return (found.version & 1) == 0;  // only in a test that proves that it would notice
#else
    // Acquire fence: a word stored by a later writer was stored after that writer's release fence,
    // hence after its odd version, which the load below then sees.
    std::atomic_thread_fence(std::memory_order_acquire);
    return (found.version & 1) == 0 &&
           Word(lines_[found.set].version).load(std::memory_order_relaxed) == found.version;
#endif
  }

  // Sets the row's used-bit and takes its prefetch mark, and returns whether it had one. Requires
  // writable memory. Relaxed: used-bits only guide eviction, marks are only counted. Where every
  // row has its slot nothing is evicted, so the word is looked at only for the marks' sake.
  bool MarkUsed(const Found& found, bool marks_are_set) const {
    if (geometry_.resident && !marks_are_set) return false;
    const uint64_t used = uint64_t{1} << found.way;
    const uint64_t mark = used << kPrefetchedShift;
    const auto state = Word(states_[found.set]);
    // Most reads find it as they want it and leave the line shared between cores.
    const uint64_t seen = state.load(std::memory_order_relaxed);
    if ((seen & used) == 0) state.fetch_or(used, std::memory_order_relaxed);
    return (seen & mark) != 0 && (state.fetch_and(~mark, std::memory_order_relaxed) & mark) != 0;
  }

  // Whether the row has a prefetch mark.
  bool IsMarked(const Found& found) const {
    const uint64_t mark = uint64_t{1} << (kPrefetchedShift + found.way);
    return (Word(states_[found.set]).load(std::memory_order_relaxed) & mark) != 0;
  }

  // The way that holds `tag`, or −1.
  static int MatchWay(TagLine& line, uint32_t tag) {
#ifdef ENGRAM_DRAM_VECTOR
    const auto* words = reinterpret_cast<const uint64_t*>(&line);
    const __m256i wanted = _mm256_set1_epi32(static_cast<int>(tag));
    const __m256i low = _mm256_cmpeq_epi32(LoadShared(words), wanted);
    const __m256i high = _mm256_cmpeq_epi32(LoadShared(words + 4), wanted);
    const uint32_t mask = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(low))) |
                          static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(high))) << 8;
    const uint32_t ways = mask >> 1;  // lane 0 is the version
    return ways == 0 ? -1 : __builtin_ctz(ways);
#else
    for (uint32_t way = 0; way < kWays; ++way) {
      if (Word(line.tags[way]).load(std::memory_order_relaxed) == tag) {
        return static_cast<int>(way);
      }
    }
    return -1;
#endif
  }

 private:
#ifdef ENGRAM_DRAM_VECTOR
  // 32 bytes from 8-byte aligned memory that others may be writing.
  static __m256i LoadShared(const uint64_t* words) {
    __m256i value;
    asm volatile("vmovdqu %1, %0" : "=x"(value) : "m"(*reinterpret_cast<const __m256i_u*>(words)));
    return value;
  }
#endif

  template <typename T>
  static std::atomic_ref<T> Word(T& word) {
    return std::atomic_ref<T>(word);
  }

  Geometry geometry_;
  uint64_t stride_ = 0;
  TagLine* lines_ = nullptr;
  uint64_t* states_ = nullptr;
  std::byte* rows_ = nullptr;
};

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_READER_H_
