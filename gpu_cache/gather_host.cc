// The gather on a processor: position by position what the kernel does with many at a time.
#include <cstring>

#include "gpu_cache/gather.h"
#include "gpu_cache/gather_rows.h"

namespace engram::gpu_cache {
namespace {

FoundRow FindInArena(const Source& source, const RegionNow& region, uint32_t row_id) {
  const std::byte* const sector = SectorAt(region, row_id);
  if (sector == nullptr) return {};
  uint32_t lower = 0;
  uint32_t upper = 0;
  for (uint32_t word = 0; word < kSectorBytes / 8; ++word) {
    const uint32_t bits = MatchTags(RowWord(sector, word), TagOf(row_id));
    lower |= (bits & 1) << word;
    upper |= (bits >> 1) << word;
  }
  return FoundInArena(source, region, row_id, WayOfMatches(lower, upper));
}

FoundRow FindInDram(const DramView& dram, uint32_t row_id) {
  FoundRow found;
  if (dram.resident != 0) {
    found.row = DramResidentRow(dram, row_id);
    return found;
  }
  const std::byte* const set = DramSetOf(dram, row_id);
  const uint64_t first = LoadAcquire64(reinterpret_cast<const uint64_t*>(set));
  uint32_t lower = 0;
  uint32_t upper = 0;
  for (uint32_t word = 0; word < sizeof(dram::TagLine) / 8; ++word) {
    const uint32_t bits = MatchTags(RowWord(set, word), TagOf(row_id));
    lower |= (bits & 1) << word;
    upper |= (bits >> 1) << word;
  }
  return FoundInDramSet(dram, set, static_cast<uint32_t>(first), DramWayOfMatches(lower, upper));
}

class HostGather {
 public:
  explicit HostGather(const GatherArgs& args)
      : args_(args),
        source_(*args.source),
        out_bytes_(OutputRowBytes(source_.row_bytes, args.output)) {}

  void Run() {
    for (uint32_t position = 0; position < args_.count; ++position) {
      const uint32_t id = args_.ids[position];
      std::byte* const out = args_.out + position * out_bytes_;
      bool served = false;
      if (id == kNoRowId) {
        ++args_.scratch->zero_rows;
      } else {
        served = ReadRow(id, out);
        if (!served) args_.missing[args_.scratch->missing++] = {position, id};
      }
      if (!served) std::memset(out, 0, out_bytes_);
      if (IsSampled(args_, args_.scratch->launches, position)) {
        args_.samples[position / args_.sample_every] = served ? id : kNoRowId;
      }
    }
    Finish();
  }

 private:
  bool ReadRow(uint32_t id, std::byte* out) {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const RegionNow region = ReadRegion(source_);
      FoundRow found = FindInArena(source_, region, id);
      if (found.row == nullptr && DramHolds(source_.dram)) found = FindInDram(source_.dram, id);
      if (found.row == nullptr) return false;
      FenceReads(true);
      StoreRow(source_.row_bytes, args_.output, found.row, out);
      FenceReads(true);
      const uint64_t epoch = source_.arena == nullptr ? 0 : Load64(&RegionIn(source_)->epoch);
      const uint64_t generation =
          source_.dram.segments == nullptr ? 0 : Load64(source_.dram.generation);
      if (IsBelieved(source_, region, found, epoch, generation)) {
        ++(found.in_hbm ? args_.scratch->hbm_rows : args_.scratch->dram_rows);
        return true;
      }
    }
    return false;
  }

  void Finish() {
    Scratch& scratch = *args_.scratch;
    Report& report = *args_.report;
    report.missing = scratch.missing;
    report.samples = Samples(args_, scratch.launches);
    report.hbm_rows = scratch.hbm_rows;
    report.dram_rows = scratch.dram_rows;
    report.zero_rows = scratch.zero_rows;
    report.launches = ++scratch.launches;
    scratch.missing = 0;
  }

  const GatherArgs& args_;
  const Source source_;
  const uint64_t out_bytes_;
};

}  // namespace

void GatherOnHost(const GatherArgs& args) { HostGather(args).Run(); }

}  // namespace engram::gpu_cache
