// A gather's work on one row, for kernels and processors alike: find it in the arena, find it in
// DRAM, copy its words, and tell afterwards whether what was copied is to be believed. Probe, copy
// and validate are those of storage/dram/seqlock.h.
#ifndef ENGRAM_GPU_CACHE_GATHER_ROWS_H_
#define ENGRAM_GPU_CACHE_GATHER_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "gpu_cache/arena_layout.h"
#include "gpu_cache/dequantise.h"
#include "gpu_cache/dram_view.h"
#include "gpu_cache/gather.h"
#include "gpu_cache/portable.h"
#include "storage/dram/seqlock.h"

namespace engram::gpu_cache {

// How often a row whose set changed while it was copied is looked for again before it is given to
// the misses. Each time its writer has just been there, and it changes a set a few times a second.
inline constexpr int kAttempts = 3;

// The arena's region as it was at one moment; `sectors` 0: nothing may be read.
struct RegionNow {
  uint64_t epoch = 0;
  const std::byte* index = nullptr;
  const std::byte* rows = nullptr;
  uint32_t sectors = 0;
  uint32_t direct = 0;
};

ENGRAM_HD const Region* RegionIn(const Source& source) {
  return &reinterpret_cast<const ArenaHeader*>(source.arena)->regions[source.region];
}

// Fields that are being written while they are read may say anything; so they are held against the
// arena's end before they are used, and the epoch tells afterwards.
ENGRAM_HD RegionNow ReadRegion(const Source& source) {
  RegionNow now;
  if (source.arena == nullptr) return now;
  const Region* const region = RegionIn(source);
  now.epoch = LoadAcquire64(&region->epoch);
  const uint64_t index_offset = Load64(&region->index_offset);
  const uint64_t rows_offset = Load64(&region->rows_offset);
  const uint64_t sectors = Load32(&region->sectors);
  now.direct = Load32(&region->direct);
  const bool ours = now.epoch % 2 == 0 && Load32(&region->stack_id) == source.stack_id &&
                    Load32(&region->row_bytes) == source.row_bytes;
  const uint64_t slots_bytes = sectors * kWays * RowStride(source.row_bytes);
  const bool within = index_offset <= source.arena_bytes && rows_offset <= source.arena_bytes &&
                      sectors * kSectorBytes <= source.arena_bytes - index_offset &&
                      slots_bytes <= source.arena_bytes - rows_offset;
  if (!ours || !within || index_offset % kSectorBytes != 0 || rows_offset % 8 != 0) return now;
  now.sectors = static_cast<uint32_t>(sectors);
  now.index = source.arena + index_offset;
  now.rows = source.arena + rows_offset;
  return now;
}

// The row's tags; null if the region can hold no such row.
ENGRAM_HD const std::byte* SectorAt(const RegionNow& region, uint32_t row_id) {
  if (region.sectors == 0) return nullptr;
  const uint32_t sector = SectorOf(row_id, region.sectors, region.direct != 0);
  return sector < region.sectors ? region.index + sector * kSectorBytes : nullptr;
}

// Lines of tags are read in pieces of 16 bytes. Which of a piece's four tags is this one: a bit
// each.
inline constexpr uint32_t kPieceBytes = 16;
inline constexpr uint32_t kTagsOfPiece = kPieceBytes / sizeof(uint32_t);
ENGRAM_HD uint32_t MatchTags(WordPair piece, uint32_t tag) {
  return (static_cast<uint32_t>(piece.first) == tag ? 1u : 0u) |
         (static_cast<uint32_t>(piece.first >> 32) == tag ? 2u : 0u) |
         (static_cast<uint32_t>(piece.second) == tag ? 4u : 0u) |
         (static_cast<uint32_t>(piece.second >> 32) == tag ? 8u : 0u);
}

// Where a row was found, and what has to be the same after it was copied.
struct FoundRow {
  const std::byte* row = nullptr;     // null: not found
  const uint32_t* version = nullptr;  // DRAM's sets: the set's version word
  const uint32_t* tag = nullptr;      // and the row's tag
  uint32_t seen_version = 0;
  bool in_hbm = false;
};

ENGRAM_HD FoundRow FoundInArena(const Source& source, const RegionNow& region, uint32_t row_id,
                                int way) {
  FoundRow found;
  if (way < 0) return found;
  const uint64_t slot =
      uint64_t{SectorOf(row_id, region.sectors, region.direct != 0)} * kWays + way;
  found.row = region.rows + slot * RowStride(source.row_bytes);
  found.in_hbm = true;
  return found;
}

ENGRAM_HD FoundRow FoundInDramSet(const DramView& dram, const std::byte* set, uint32_t version,
                                  int way) {
  FoundRow found;
  if (way < 0 || !dram::IsAtRest(version)) return found;
  found.row = DramSlot(dram, set, way);
  found.version = reinterpret_cast<const uint32_t*>(set);
  found.tag = found.version + 1 + way;
  found.seen_version = version;
  return found;
}

// Whether what is known of the DRAM tier is still so.
ENGRAM_HD bool DramHolds(const DramView& dram) {
  return dram.segments != nullptr && LoadAcquire64(dram.generation) == dram.attached_generation;
}

// What was read of a row that was found, and behind a fence after that.
struct SeenAfter {
  uint32_t tag = 0;         // DRAM's sets: beside the row's bytes
  uint64_t epoch = 0;       // the region's, behind the fence, as
  uint64_t generation = 0;  // the control page's
};

// Whether the copy of a row that was found is that row. Reads the set's version, behind the fence
// too. A set's tags and its version may have been read in any order when the row was looked for; so
// the tag is read again between two looks at the version, which must not have changed.
ENGRAM_HD bool IsBelieved(const Source& source, const RegionNow& region, const FoundRow& found,
                          uint32_t row_id, const SeenAfter& seen) {
  if (dram::kBelieveAnything) return true;
  if (found.in_hbm) return seen.epoch == region.epoch;
  if (seen.generation != source.dram.attached_generation) return false;
  return found.version == nullptr ||
         (seen.tag == TagOf(row_id) && dram::IsUnchanged(found.version, found.seen_version));
}

using dram::RowWord;

// Stores a word of a row's `row_bytes` bytes at `out`, which may be aligned in any way.
ENGRAM_HD void StoreWord(std::byte* out, uint32_t row_bytes, uint32_t word, uint64_t value) {
  std::byte* const to = out + uint64_t{word} * 8;
  const uint32_t left = row_bytes - word * 8;
  if (left >= 8 && reinterpret_cast<uintptr_t>(to) % 8 == 0) {
    *reinterpret_cast<uint64_t*>(to) = value;
    return;
  }
  for (uint32_t i = 0; i < 8 && i < left; ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}

// The byte of a row in which word w of its values has its scale: behind all values.
ENGRAM_HD uint32_t ScaleAt(uint32_t values, uint32_t word) {
  return values + word / (kScaleBlock / 8);
}

// Word w of a row's values as eight bf16.
ENGRAM_HD Bf16x8 RowWordAsBf16(const std::byte* row, uint32_t values, uint32_t word) {
  const uint32_t scale_at = ScaleAt(values, word);
  const uint64_t scales = RowWord(row, scale_at / 8);
  return DequantiseWord(RowWord(row, word), static_cast<uint8_t>(scales >> (scale_at % 8 * 8)));
}

// A whole row, whose bytes lie at whole words, as the output has it.
ENGRAM_HD void StoreRow(uint32_t row_bytes, Output output, const std::byte* row, std::byte* out) {
  if (output == Output::kRaw) {
    for (uint32_t word = 0; word < (row_bytes + 7) / 8; ++word) {
      StoreWord(out, row_bytes, word, RowWord(row, word));
    }
    return;
  }
  const uint32_t values = QuantisedValues(row_bytes);
  for (uint32_t word = 0; word < values / 8; ++word) {
    reinterpret_cast<Bf16x8*>(out)[word] = RowWordAsBf16(row, values, word);
  }
}

// Whether this position of a launch whose first sample is that is one of those that are reported;
// if so, at samples[position / sample_every].
ENGRAM_HD bool IsSampled(const GatherArgs& args, uint32_t first_sample, uint32_t position) {
  return args.samples != nullptr && position % args.sample_every == first_sample;
}
// How many positions are.
ENGRAM_HD uint32_t Samples(const GatherArgs& args, uint32_t first_sample) {
  if (args.samples == nullptr || args.count <= first_sample) return 0;
  return (args.count - 1 - first_sample) / args.sample_every + 1;
}

// Called once, at the end of a launch: reports it, and resets the scratch for the next one.
ENGRAM_HD void FinishLaunch(const GatherArgs& args, uint32_t missing, uint32_t hbm_rows,
                            uint32_t dram_rows) {
  Scratch& scratch = *args.scratch;
  const uint32_t first_sample = scratch.first_sample;
  scratch.hbm_rows += hbm_rows;
  scratch.dram_rows += dram_rows;
  scratch.zero_rows += args.count - missing - hbm_rows - dram_rows;
  ++scratch.launches;
  if (args.samples != nullptr) {
    scratch.first_sample = (first_sample == 0 ? args.sample_every : first_sample) - 1;
  }
  scratch.missing = 0;
  scratch.arrived = 0;
  *args.report = {.missing = missing,
                  .samples = Samples(args, first_sample),
                  .hbm_rows = scratch.hbm_rows,
                  .dram_rows = scratch.dram_rows,
                  .zero_rows = scratch.zero_rows,
                  .launches = scratch.launches};
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_GATHER_ROWS_H_
