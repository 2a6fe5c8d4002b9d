// HbmAdmission: which rows of one layer belong into its region of the HBM arena.
//
// It has a line of 64 bytes for each sector of the region: the eight rows that are wanted there,
// with a count each, and twelve ghosts, short tags with counts of rows that were asked for and are
// not among the eight. It works as storage/dram/hotness.h does for the DRAM tier (randomised
// admission; a ghost that is met again and has come more often than the weakest row takes its
// place; a set ages by itself), but the arena's sets are others, and here nothing is stored: what
// is wanted is written to the device later (HbmCache).
//
// Why not the DRAM tier's own counts: they tell the rows at the edge of DRAM apart, and are
// saturated for those at the edge of an HBM tier many times smaller; of a resident layer there are
// none. They are what this begins with (Seed).
//
// A region that has room for the whole layer wants every row; nothing is counted then.
//
// One thread at a time. 64 bytes a sector, so 8 a row, of this process' memory.
#ifndef ENGRAM_SERVER_PLACEMENT_HBM_ADMISSION_H_
#define ENGRAM_SERVER_PLACEMENT_HBM_ADMISSION_H_

#include <array>
#include <cstdint>
#include <vector>

#include "gpu_cache/arena_layout.h"

namespace engram {

class HbmAdmission {
 public:
  static constexpr uint32_t kGhosts = 12;
  static constexpr uint32_t kGhostCountBits = 5;
  static constexpr uint32_t kMaxGhostCount = (1u << kGhostCountBits) - 1;
  static constexpr uint32_t kMaxCount = 255;
  // Seeds count for no more than so many accesses, or a row that was hot once would stay.
  static constexpr uint32_t kMaxSeed = 16;

  HbmAdmission(const gpu_cache::RegionShape& shape, uint64_t layer_rows);

  // A row that is known to be asked for often: the greater `count` (1 to kMaxCount) the more. It
  // takes a free way, or that of a row with a lower count. kDeadPosition is passed over.
  void Seed(uint32_t row_id, uint32_t count);

  // One access of those that are sampled.
  void Access(uint32_t row_id);

  // The tags that are wanted in a sector, in no order; kEmptyTag where there is room left.
  std::array<uint32_t, gpu_cache::kWays> Wanted(uint32_t sector) const;
  // The row's count, 0 if it is not wanted.
  uint32_t CountOf(uint32_t row_id) const;

  const gpu_cache::RegionShape& shape() const { return shape_; }
  uint64_t wanted_rows() const { return wanted_rows_; }
  uint64_t bytes() const { return lines_.size() * sizeof(Line); }

 private:
  struct alignas(64) Line {
    uint32_t tags[gpu_cache::kWays];
    uint8_t counts[gpu_cache::kWays];
    uint16_t ghosts[kGhosts];  // 11 bits of the row's hash above, 5 bits of count below; 0: free
  };
  static_assert(sizeof(Line) == 64);

  static int WayOf(const Line& line, uint32_t tag);
  static int WeakestWay(const Line& line);
  static void Halve(Line& line);
  void OnGhostHit(Line& line, int ghost, uint32_t row_id);
  void OnMiss(Line& line, uint32_t row_id);
  Line* LineOf(uint32_t row_id);

  const gpu_cache::RegionShape shape_;
  const uint64_t layer_rows_;
  std::vector<Line> lines_;
  uint64_t wanted_rows_ = 0;
  // State of a generator: admission is randomised, so that no caller can steer it.
  uint64_t random_ = 0;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_HBM_ADMISSION_H_
