// The gather on a processor: position by position what the kernel does with many at a time.
#include <cstring>

#include "gpu_cache/gather.h"
#include "gpu_cache/gather_rows.h"
#include "storage/dram/seqlock.h"

namespace engram::gpu_cache {
namespace {

FoundRow FindInArena(const Source& source, const RegionNow& region, uint32_t row_id) {
  const std::byte* const sector = SectorAt(region, row_id);
  if (sector == nullptr) return {};
  uint32_t matches = 0;
  for (uint32_t piece = 0; piece < kSectorBytes / kPieceBytes; ++piece) {
    const WordPair pair = LoadPairAcquireOrZeros(sector + piece * kPieceBytes);
    matches |= MatchTags(pair, TagOf(row_id)) << (piece * kTagsOfPiece);
  }
  return FoundInArena(source, region, row_id, dram::FirstWay(matches));
}

FoundRow FindInDram(const DramView& dram, uint32_t row_id) {
  FoundRow found;
  if (dram.resident != 0) {
    found.row = DramResidentRow(dram, row_id);
    return found;
  }
  const std::byte* const set = DramSetOf(dram, row_id);
  const dram::Probe probe =
      dram::ProbeSet(*reinterpret_cast<const dram::TagLine*>(set), TagOf(row_id));
  return FoundInDramSet(dram, set, probe.version, probe.way);
}

class HostGather {
 public:
  explicit HostGather(const GatherArgs& args)
      : args_(args),
        source_(*args.source),
        out_bytes_(OutputRowBytes(source_.row_bytes, args.output)) {}

  void Run() {
    uint32_t missing = 0;
    for (uint32_t position = 0; position < args_.count; ++position) {
      const uint32_t id = args_.ids[position];
      std::byte* const out = args_.out + position * out_bytes_;
      const bool served = id != kDeadPosition && ReadRow(id, out);
      if (!served) std::memset(out, 0, out_bytes_);
      if (!served && id != kDeadPosition) args_.missing[missing++] = {position, id};
      if (IsSampled(args_, args_.scratch->first_sample, position)) {
        args_.samples[position / args_.sample_every] = served ? id : kDeadPosition;
      }
    }
    FinishLaunch(args_, missing, hbm_rows_, dram_rows_);
  }

 private:
  bool ReadRow(uint32_t id, std::byte* out) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const RegionNow region = ReadRegion(source_);
      FoundRow found = FindInArena(source_, region, id);
      if (found.row == nullptr && DramHolds(source_.dram)) found = FindInDram(source_.dram, id);
      if (found.row == nullptr) return false;
      FenceReads(true);
      SeenAfter seen;
      seen.tag = Load32OrZero(found.tag);
      if (args_.output == Output::kRaw) {
        dram::CopyRow(found.row, source_.row_bytes, out);
      } else {
        StoreRow(source_.row_bytes, args_.output, found.row, out);
      }
      FenceReads(true);
      seen.epoch = source_.arena == nullptr ? 0 : Load64(&RegionIn(source_)->epoch);
      seen.generation = source_.dram.segments == nullptr ? 0 : Load64(source_.dram.generation);
      if (IsBelieved(source_, region, found, id, seen)) {
        ++(found.in_hbm ? hbm_rows_ : dram_rows_);
        return true;
      }
    }
    return false;
  }

  const GatherArgs& args_;
  const Source source_;
  const uint64_t out_bytes_;
  uint32_t hbm_rows_ = 0;
  uint32_t dram_rows_ = 0;
};

}  // namespace

void GatherOnHost(const GatherArgs& args) { HostGather(args).Run(); }

}  // namespace engram::gpu_cache
