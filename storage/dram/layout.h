// The layout of a row cache in memory: where tags, set states and rows lie, and how a row id finds
// its set. Nothing here allocates or synchronises; reader.h and row_cache.cc do.
//
//   offset 0             sets × TagLine                     one cache line each
//   StateOffset()        sets × uint64                      used-bits, clock hand, prefetch marks
//   RowsOffset()         sets × kWays × RowStride() bytes   row slots, 8-byte aligned
//   MappedBytes()        the end, a multiple of kPageBytes
//
// Memory filled with zeros is an empty cache: tags are stored inverted, so that 0 means "no row".
// All numbers are in host byte order; the memory is shared between processes of one host only.
// Only the standard library: gpu_cache and clients include this header too.
#ifndef ENGRAM_STORAGE_DRAM_LAYOUT_H_
#define ENGRAM_STORAGE_DRAM_LAYOUT_H_

#include <cstddef>
#include <cstdint>

namespace engram::dram {

// Changes whenever a reader of the old layout would misread the new one.
inline constexpr uint32_t kLayoutVersion = 2;

inline constexpr uint32_t kWays = 15;  // with the version, the tags fill one cache line
inline constexpr uint64_t kLineBytes = 64;
inline constexpr uint64_t kPageBytes = 4096;

// Row ids are 0 … 2^32 − 2; 2^32 − 1 names no row and is never stored.
inline constexpr uint32_t kNoRowId = 0xFFFFFFFFu;
inline constexpr uint32_t kEmptyTag = 0;
constexpr uint32_t TagOf(uint32_t row_id) { return ~row_id; }

// One set's tags. `version` is even while the set is at rest and odd while a writer has it; it
// grows by two with each change. A reader that sees the same even version before and after its
// copy has seen one state of the set. It would take 2^31 changes of one set during one copy to
// deceive it.
struct alignas(kLineBytes) TagLine {
  uint32_t version;
  uint32_t tags[kWays];
};
static_assert(sizeof(TagLine) == kLineBytes);

// A set's state word: bit w says that way w was read since the clock hand last passed it; the hand
// (0 … kWays − 1) lies above; bit kPrefetchedShift + w marks a row that a prefetch brought and
// nobody has read. Readers set used-bits and take marks away; all else is changed by the set's
// writer.
inline constexpr uint64_t kUsedMask = (uint64_t{1} << kWays) - 1;
inline constexpr int kHandShift = 16;
inline constexpr int kPrefetchedShift = 32;

// A well mixed 32-bit hash of a row id: ids of one column are consecutive, and hot ids may be
// regular, so one multiplication is not enough.
constexpr uint32_t HashRowId(uint32_t row_id) {
  uint64_t x = row_id * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93ull;
  return static_cast<uint32_t>(x >> 32);
}

// Maps a hash evenly to 0 … buckets − 1 (Lemire's fast range). Requires buckets > 0.
constexpr uint32_t BucketOf(uint32_t hash, uint32_t buckets) {
  return static_cast<uint32_t>((uint64_t{hash} * buckets) >> 32);
}

// The numbers that fix a layout. A plain value.
struct Geometry {
  uint32_t row_bytes = 0;
  uint32_t sets = 0;
  // There is a slot for every row of the layer: row r belongs to set r / kWays, no set ever
  // overflows and nothing is evicted. Otherwise the set is chosen by hash.
  bool resident = false;

  // Slots are whole 8-byte words: a row is copied word by word.
  constexpr uint64_t RowStride() const { return (uint64_t{row_bytes} + 7) / 8 * 8; }
  constexpr uint64_t StateOffset() const { return sets * sizeof(TagLine); }
  constexpr uint64_t RowsOffset() const {
    return (StateOffset() + sets * sizeof(uint64_t) + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
  constexpr uint64_t MappedBytes() const {
    const uint64_t end = RowsOffset() + sets * kWays * RowStride();
    return (end + kPageBytes - 1) / kPageBytes * kPageBytes;
  }
  // Always below `sets`, also for an id that the layer does not have.
  constexpr uint32_t SetOf(uint32_t row_id) const {
    if (!resident) return BucketOf(HashRowId(row_id), sets);
    const uint32_t set = row_id / kWays;
    return set < sets ? set : sets - 1;
  }
};

// The largest geometry whose MappedBytes() is within `budget_bytes`, with no more sets than
// `max_rows` rows fill; sets is 0 if the budget is too small for one. Requires row_bytes > 0.
constexpr Geometry FitGeometry(uint64_t budget_bytes, uint32_t row_bytes, uint64_t max_rows) {
  Geometry geometry{.row_bytes = row_bytes};
  const uint64_t set_bytes = sizeof(TagLine) + sizeof(uint64_t) + kWays * geometry.RowStride();
  const uint64_t pages_bytes = budget_bytes / kPageBytes * kPageBytes;
  const uint64_t all_sets = max_rows == 0 ? 1 : (max_rows + kWays - 1) / kWays;
  const uint64_t sets = pages_bytes / set_bytes;
  geometry.sets = static_cast<uint32_t>(sets < all_sets ? sets : all_sets);
  // Rounding the state words up to a line costs less than one set.
  if (geometry.sets > 0 && geometry.MappedBytes() > pages_bytes) --geometry.sets;
  geometry.resident = geometry.sets == all_sets;
  return geometry;
}

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_LAYOUT_H_
