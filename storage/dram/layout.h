// The layout of one layer's DRAM tier: which segments it is made of, what lies where in a segment,
// and how a row id finds its place. FORMAT.md beside this file has the same in pictures. Nothing
// here allocates or synchronises; reader.h, segment.cc and row_cache.cc do. fit_shape.h makes a
// layout of a budget.
//
// A segment is one stretch of memory, mapped by the daemon and read-only by clients on its host:
//
//   offset 0               SegmentHeader         kHeaderBytes
//   kCache:
//     kHeaderBytes         per_segment × HotLine one cache line a set (hotness.h), the daemon's own
//     RowsOffset()         sets of rows, each SetBytes(), and within a set
//     0                    TagLine               one cache line
//     kStateOffset         uint64                used-bits, clock hand, prefetch marks
//     SlotsOffset()        kWays row slots       near their tags: one page to look up, not two
//   kResident, every row of the layer has its place:
//     kHeaderBytes         per_segment bits      whether the row is there
//     RowsOffset()         row slots             row r of the layer in slot r mod per_segment
//
// A row slot is RowStride() bytes. Memory filled with zeros behind the header is an empty segment:
// tags are stored inverted, so that 0 means "no row". All numbers are in host byte order; the
// memory is shared between processes of one host only.
// Only the standard library: gpu_cache and clients include this header too.
#ifndef ENGRAM_STORAGE_DRAM_LAYOUT_H_
#define ENGRAM_STORAGE_DRAM_LAYOUT_H_

#include <cstddef>
#include <cstdint>

namespace engram::dram {

// Changes whenever a reader of the old layout would misread the new one.
inline constexpr uint32_t kLayoutVersion = 3;

inline constexpr uint32_t kWays = 15;  // with the version, the tags fill one cache line
inline constexpr uint64_t kLineBytes = 64;
inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
inline constexpr uint64_t kHeaderBytes = kPageBytes;

// Row ids are 0 … 2^32 − 2; 2^32 − 1 names no row and is never stored.
inline constexpr uint32_t kDeadPosition = 0xFFFFFFFFu;
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
// (0 … kWays − 1) lies above, and above that an age of hotness.h (kStagingShift); bit
// kPrefetchedShift + w marks a row that a prefetch brought and nobody has read. The daemon's
// readers set used-bits and take marks away; all else is changed by the set's writer.
inline constexpr uint64_t kUsedMask = (uint64_t{1} << kWays) - 1;
inline constexpr int kHandShift = 16;
inline constexpr int kPrefetchedShift = 32;

// A well mixed 64-bit hash of a row id: ids of one column are consecutive, and hot ids may be
// regular, so one multiplication is not enough. (Two rounds of xor-shift and multiplication, as in
// Vigna's splitmix64.) The upper 12 bits choose a bucket, the lower 32 a set: disjoint bits.
constexpr uint64_t HashRowId(uint32_t row_id) {
  uint64_t x = row_id * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93ull;
  return x ^ (x >> 32);
}

// In kCache a segment holds the rows of some of these buckets. When the tier shrinks, the buckets
// of the segments given up go to the others; rows of all other buckets stay where they are.
inline constexpr uint32_t kBucketBits = 12;
inline constexpr uint32_t kBuckets = 1u << kBucketBits;
constexpr uint32_t BucketOf(uint64_t hash) {
  return static_cast<uint32_t>(hash >> (64 - kBucketBits));
}
// Maps a hash evenly to 0 … sets − 1 (Lemire's fast range). Requires sets > 0.
constexpr uint32_t SetOf(uint64_t hash, uint32_t sets) {
  return static_cast<uint32_t>((uint64_t{static_cast<uint32_t>(hash)} * sets) >> 32);
}

enum class Mode : uint32_t {
  kCache = 1,     // sets of rows, chosen by frequency
  kResident = 2,  // room for every row of the layer: no tags, no versions, nothing is evicted
};

// Segments of one layer are at most so many, so that each has a bucket of its own.
inline constexpr uint32_t kMaxSegments = kBuckets;

// The numbers that fix one layer's layout. A plain value.
struct LayerShape {
  Mode mode = Mode::kCache;
  uint32_t row_bytes = 0;
  uint64_t layer_rows = 0;
  uint32_t segments = 0;     // 0: no memory at all
  uint32_t per_segment = 0;  // kCache: sets; kResident: rows, of the last segment maybe fewer
  uint64_t page_bytes = kPageBytes;  // segments are whole pages

  // Slots are whole 8-byte words: a row is copied word by word.
  constexpr uint64_t RowStride() const { return (uint64_t{row_bytes} + 7) / 8 * 8; }
  // Sets or rows of this segment.
  constexpr uint32_t UnitsOf(uint32_t segment) const {
    if (mode == Mode::kCache || segment + 1 < segments) return per_segment;
    return static_cast<uint32_t>(layer_rows - uint64_t{per_segment} * segment);
  }
  // Within a set. Rows of whole cache lines begin on one.
  static constexpr uint64_t kStateOffset = sizeof(TagLine);
  constexpr uint64_t SlotsOffset() const {
    return RowStride() % kLineBytes == 0 ? kStateOffset + kLineBytes
                                         : kStateOffset + sizeof(uint64_t);
  }
  // Whole lines, and not so many that tags of different sets meet in few sets of the processor's
  // own cache: with 64 lines a set, all tags meet in one.
  constexpr uint64_t SetBytes() const {
    const uint64_t lines = (SlotsOffset() + kWays * RowStride() + kLineBytes - 1) / kLineBytes;
    return (lines % 8 == 0 ? lines + 1 : lines) * kLineBytes;
  }
  // Where the sets (kCache) or the row slots (kResident) begin.
  constexpr uint64_t RowsOffset() const {
    if (mode == Mode::kCache) return kHeaderBytes + uint64_t{per_segment} * kLineBytes;
    const uint64_t end = kHeaderBytes + (uint64_t{per_segment} + 63) / 64 * 8;
    return (end + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
  constexpr uint64_t SegmentBytes(uint32_t segment) const {
    const uint64_t unit_bytes = mode == Mode::kCache ? SetBytes() : RowStride();
    return (RowsOffset() + UnitsOf(segment) * unit_bytes + page_bytes - 1) / page_bytes *
           page_bytes;
  }
  constexpr uint64_t TotalBytes() const {
    if (segments == 0) return 0;
    return SegmentBytes(0) * (segments - 1) + SegmentBytes(segments - 1);
  }
  // Rows that there is room for.
  constexpr uint64_t Slots() const {
    return mode == Mode::kResident ? layer_rows : uint64_t{segments} * per_segment * kWays;
  }
  // kCache: the row's set, counted over all segments, where buckets were dealt out to segments in
  // turn, as they are at first.
  constexpr uint64_t FirstSetOf(uint32_t row_id) const {
    const uint64_t hash = HashRowId(row_id);
    return uint64_t{BucketOf(hash) % segments} * per_segment + dram::SetOf(hash, per_segment);
  }
  // What the daemon keeps beside the segments: a mark a row, or the segments of the buckets, twice.
  constexpr uint64_t HeapBytes() const {
    if (mode == Mode::kResident) return (layer_rows + 63) / 64 * 8;
    return segments > 1 ? 2 * kBuckets * sizeof(uint16_t) : 0;
  }
  bool operator==(const LayerShape&) const = default;
};

inline constexpr uint64_t kSegmentMagic = 0x474553'4D415247'4Eull;  // "NGRAMSEG"
inline constexpr size_t kMaxDigest = 127;

// What a segment says of itself, so that a daemon can take over what an earlier one left. The
// fields up to `checksum` never change once the segment is in use.
struct SegmentHeader {
  uint64_t magic;
  uint32_t layout_version;
  Mode mode;
  uint32_t row_bytes;
  int32_t layer;
  uint64_t layer_rows;
  uint64_t page_bytes;
  uint32_t per_segment;
  uint32_t index;  // kResident: which of the layer's segments it is; kCache: 0
  char table_digest[kMaxDigest + 1];
  uint64_t checksum;  // HeaderChecksum of the above

  // kResident: 1 once every row is there; only ever set.
  uint32_t complete;
  uint32_t reserved;
  uint64_t buckets[kBuckets / 64];  // kCache: bit b: bucket b's rows are sought here
};
static_assert(sizeof(SegmentHeader) <= kHeaderBytes);

// FNV-1a, 64 bits (Fowler, Noll, Vo), over the bytes before `checksum`.
inline uint64_t HeaderChecksum(const SegmentHeader& header) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  uint64_t hash = 0xCBF29CE484222325ull;
  for (size_t i = 0; i < offsetof(SegmentHeader, checksum); ++i) {
    hash = (hash ^ bytes[i]) * 0x100000001B3ull;
  }
  return hash;
}

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_LAYOUT_H_
