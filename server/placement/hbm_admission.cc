#include "server/placement/hbm_admission.h"

#include <algorithm>

namespace engram {

using gpu_cache::kEmptyTag;
using gpu_cache::kWays;

namespace {

// Bits that choose no sector: those do the lower 32.
uint16_t GhostTag(uint32_t row_id) {
  constexpr uint32_t kMask = 0xFFFFu >> HbmAdmission::kGhostCountBits;
  return static_cast<uint16_t>(((dram::HashRowId(row_id) >> 40) & kMask)
                               << HbmAdmission::kGhostCountBits);
}

uint32_t GhostCount(uint16_t ghost) { return ghost & HbmAdmission::kMaxGhostCount; }

uint16_t MakeGhost(uint32_t row_id, uint32_t count) {
  return GhostTag(row_id) |
         static_cast<uint16_t>(std::clamp(count, 1u, HbmAdmission::kMaxGhostCount));
}

}  // namespace

HbmAdmission::HbmAdmission(const gpu_cache::RegionShape& shape, uint64_t layer_rows)
    : shape_(shape),
      layer_rows_(layer_rows),
      lines_(shape.direct ? 0 : shape.sectors),
      wanted_rows_(shape.direct ? layer_rows : 0) {}

int HbmAdmission::WayOf(const Line& line, uint32_t tag) {
  for (uint32_t way = 0; way < kWays; ++way) {
    if (line.tags[way] == tag) return static_cast<int>(way);
  }
  return -1;
}

int HbmAdmission::WeakestWay(const Line& line) {
  uint32_t weakest = 0;
  for (uint32_t way = 1; way < kWays; ++way) {
    if (line.counts[way] < line.counts[weakest]) weakest = way;
  }
  return static_cast<int>(weakest);
}

// A row that is wanted keeps a count of at least 1, a ghost too.
void HbmAdmission::Halve(Line& line) {
  for (uint8_t& count : line.counts) count = static_cast<uint8_t>((count + 1) / 2);
  for (uint16_t& ghost : line.ghosts) {
    const uint32_t count = GhostCount(ghost);
    if (count > 1) ghost = static_cast<uint16_t>(ghost - count + (count + 1) / 2);
  }
}

HbmAdmission::Line* HbmAdmission::LineOf(uint32_t row_id) {
  if (lines_.empty() || row_id >= layer_rows_) return nullptr;
  return &lines_[gpu_cache::SectorOf(row_id, shape_.sectors, false)];
}

void HbmAdmission::Seed(uint32_t row_id, uint32_t count) {
  Line* const line = LineOf(row_id);
  if (line == nullptr || count == 0) return;
  const uint32_t seed = 1 + std::min(count, kMaxCount) * (kMaxSeed - 1) / kMaxCount;
  const uint32_t tag = gpu_cache::TagOf(row_id);
  int way = WayOf(*line, tag);
  if (way < 0) {
    way = WayOf(*line, kEmptyTag);
    if (way >= 0) {
      ++wanted_rows_;
    } else {
      way = WeakestWay(*line);
      if (line->counts[way] >= seed) return;
    }
    line->tags[way] = tag;
    line->counts[way] = 0;
  }
  line->counts[way] = static_cast<uint8_t>(std::max<uint32_t>(line->counts[way], seed));
}

void HbmAdmission::Access(uint32_t row_id) {
  Line* const line = LineOf(row_id);
  if (line == nullptr) return;
  if (const int way = WayOf(*line, gpu_cache::TagOf(row_id)); way >= 0) {
    if (line->counts[way] == kMaxCount) Halve(*line);
    ++line->counts[way];
    return;
  }
  if (const int way = WayOf(*line, kEmptyTag); way >= 0) {
    line->tags[way] = gpu_cache::TagOf(row_id);
    line->counts[way] = 1;
    ++wanted_rows_;
    return;
  }
  const uint16_t tag = GhostTag(row_id);
  for (uint32_t i = 0; i < kGhosts; ++i) {
    const uint16_t ghost = line->ghosts[i];
    if (ghost == 0 || ghost - GhostCount(ghost) != tag) continue;
    OnGhostHit(*line, static_cast<int>(i), row_id);
    return;
  }
  OnMiss(*line, row_id);
}

void HbmAdmission::OnGhostHit(Line& line, int ghost, uint32_t row_id) {
  const uint32_t count = GhostCount(line.ghosts[ghost]) + 1;
  const int weakest = WeakestWay(line);
  if (count > line.counts[weakest]) {
    const uint32_t leaving = gpu_cache::TagOf(line.tags[weakest]);
    line.ghosts[ghost] = MakeGhost(leaving, line.counts[weakest]);
    line.tags[weakest] = gpu_cache::TagOf(row_id);
    line.counts[weakest] = static_cast<uint8_t>(count);
  } else {
    line.ghosts[ghost] = MakeGhost(row_id, count);
  }
  // As slowly as it must to tell its rows apart.
  if (count >= kMaxGhostCount) Halve(line);
}

void HbmAdmission::OnMiss(Line& line, uint32_t row_id) {
  const auto weakest =
      std::min_element(line.ghosts, line.ghosts + kGhosts,
                       [](uint16_t a, uint16_t b) { return GhostCount(a) < GhostCount(b); });
  const uint32_t count = GhostCount(*weakest);
  // Sebastiano Vigna's splitmix64 step, as layout.h mixes row ids.
  random_ += 0x9E3779B97F4A7C15ull;
  const uint64_t toss = (random_ ^ (random_ >> 30)) * 0xBF58476D1CE4E5B9ull >> 32;
  if (toss % (count + 1) == 0) *weakest = MakeGhost(row_id, count + 1);
}

std::array<uint32_t, kWays> HbmAdmission::Wanted(uint32_t sector) const {
  std::array<uint32_t, kWays> tags{};
  if (!shape_.direct) {
    std::copy_n(lines_[sector].tags, kWays, tags.begin());
    return tags;
  }
  for (uint32_t way = 0; way < kWays; ++way) {
    const uint64_t row = uint64_t{sector} * kWays + way;
    if (row < layer_rows_) tags[way] = gpu_cache::TagOf(static_cast<uint32_t>(row));
  }
  return tags;
}

uint32_t HbmAdmission::CountOf(uint32_t row_id) const {
  if (lines_.empty() || row_id >= layer_rows_) return 0;
  const Line& line = lines_[gpu_cache::SectorOf(row_id, shape_.sectors, false)];
  const int way = WayOf(line, gpu_cache::TagOf(row_id));
  return way < 0 ? 0 : line.counts[way];
}

}  // namespace engram
