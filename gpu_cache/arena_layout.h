// The layout of the arena: the GPU memory in which the daemon keeps the hottest rows, and which
// workers map read-only.
//
//   offset 0         ArenaHeader   kArenaHeaderBytes, with one Region for each layer
//   each region's    index         sectors × 32 bytes: the tags of 8 rows, one sector of a GPU
//                                  memory, so that one probe is one transaction
//                    rows          sectors × 8 × RowStride(): way w of sector s in slot 8 s + w
//
// A row's hash (that of the DRAM tier) chooses its sector; in a region that has room for every row
// of its layer the row id does. Memory of zeros is an empty index: tags are stored inverted.
//
// A region's `epoch` is a version for all of it. It is odd while the region is laid out, and grows
// by two before slots that had rows get others; tags are removed first and written last. A reader
// that sees the same even epoch before and after a copy, and finds the rows' tags in between, has
// whole rows.
//
// Why sets of eight, and not a perfect hash of the chosen rows: rows come and go, slot by slot,
// while kernels read, and nothing else moves. Rows that do not fit into their sector cost 0.4
// to 1.2 % of the hits (tests/bench/RESULTS.md); no slot stays empty for that: the next hottest row
// that fits takes it.
//
// Host byte order; the memory is shared by processes of one host. Only the standard library.
#ifndef ENGRAM_GPU_CACHE_ARENA_LAYOUT_H_
#define ENGRAM_GPU_CACHE_ARENA_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "storage/dram/layout.h"

namespace engram::gpu_cache {

// Changes whenever a reader of the old layout would misread the new one.
inline constexpr uint32_t kArenaLayoutVersion = 1;
inline constexpr uint64_t kArenaMagic = 0x414E4552'4D415247ull;  // "GRAMRENA"

inline constexpr uint32_t kWays = 8;
inline constexpr uint64_t kSectorBytes = 32;
inline constexpr uint64_t kArenaHeaderBytes = 4096;
inline constexpr uint32_t kMaxRegions = 63;
inline constexpr uint64_t kRegionAlignment = 256;

using dram::kDeadPosition;
using dram::kEmptyTag;
using dram::TagOf;

// One layer's share of the arena.
struct alignas(64) Region {
  uint64_t epoch;  // 0: has never been laid out
  uint64_t index_offset;
  uint64_t rows_offset;
  uint32_t stack_id;  // whose rows: as Attach names the layer; 0: nobody's
  uint32_t sectors;
  uint32_t row_bytes;
  uint32_t direct;  // 1: room for every row; row r lies in slot r
};
static_assert(sizeof(Region) == 64);

struct ArenaHeader {
  alignas(64) uint64_t magic;
  uint64_t bytes;  // of the arena
  uint32_t layout_version;
  Region regions[kMaxRegions];
};
static_assert(sizeof(ArenaHeader) <= kArenaHeaderBytes);

// Slots are whole 8-byte words: a row is copied word by word.
constexpr uint64_t RowStride(uint32_t row_bytes) { return (uint64_t{row_bytes} + 7) / 8 * 8; }

// How a layer lies in a region. A plain value.
struct RegionShape {
  uint32_t row_bytes = 0;
  uint32_t sectors = 0;  // 0: no room for one
  bool direct = false;

  constexpr uint64_t IndexBytes() const { return sectors * kSectorBytes; }
  constexpr uint64_t Slots() const { return uint64_t{sectors} * kWays; }
  constexpr uint64_t RowsOffset() const {  // from where the index begins
    return (IndexBytes() + kRegionAlignment - 1) / kRegionAlignment * kRegionAlignment;
  }
  constexpr uint64_t Bytes() const { return RowsOffset() + Slots() * RowStride(row_bytes); }
  bool operator==(const RegionShape&) const = default;
};

// The largest region within `budget_bytes`, and no larger than the layer needs. Requires row_bytes
// and layer_rows > 0.
constexpr RegionShape FitRegion(uint64_t budget_bytes, uint32_t row_bytes, uint64_t layer_rows) {
  RegionShape shape{.row_bytes = row_bytes};
  const uint64_t sector = kSectorBytes + kWays * RowStride(row_bytes);
  const uint64_t all = (layer_rows + kWays - 1) / kWays;
  uint64_t sectors =
      budget_bytes < kRegionAlignment ? 0 : (budget_bytes - kRegionAlignment) / sector;
  shape.direct = sectors >= all;
  if (shape.direct) sectors = all;
  constexpr uint64_t kMost = 0xFFFFFFFFu / kWays;
  shape.sectors = static_cast<uint32_t>(sectors < kMost ? sectors : kMost);
  return shape;
}

// The row's sector; of a direct region only if it is below `sectors`, else the layer has no such
// row.
constexpr uint32_t SectorOf(uint32_t row_id, uint32_t sectors, bool direct) {
  return direct ? row_id / kWays : dram::SetOf(dram::HashRowId(row_id), sectors);
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_ARENA_LAYOUT_H_
