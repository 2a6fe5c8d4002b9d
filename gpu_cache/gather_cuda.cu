// The kernels. What they do with a row is in gather_rows.h; here is only who does it: a warp takes
// kRows positions at a time, finds them together (the lanes of a group read one line of tags in one
// transaction), copies them together, word after word of all rows, and checks them together.
#include "gpu_cache/gather.h"
#include "gpu_cache/gather_rows.h"
#include "gpu_cache/kernels.h"

namespace engram::gpu_cache {
namespace {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

__device__ const std::byte* Shuffle(const std::byte* pointer, uint32_t lane) {
  return reinterpret_cast<const std::byte*>(
      __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(pointer), lane));
}

// What MatchTags says of the line of each lane's own row, and the line's first half-word.
struct LineMatch {
  uint32_t lower = 0;
  uint32_t upper = 0;
  uint32_t first = 0;
};

// `line` of each lane: its row's line of kLanes words, or null. Rows are those of lanes below
// kRows. All loads are under way before the first is waited for.
template <uint32_t kLanes, uint32_t kRows>
__device__ LineMatch MatchLines(const std::byte* line, uint32_t tag, uint32_t lane) {
  constexpr uint32_t kAtOnce = kWarp / kLanes;
  constexpr uint32_t kPasses = (kRows + kAtOnce - 1) / kAtOnce;
  uint64_t words[kPasses];
#pragma unroll
  for (uint32_t pass = 0; pass < kPasses; ++pass) {
    const std::byte* const at = Shuffle(line, pass * kAtOnce + lane / kLanes);
    words[pass] = at == nullptr ? 0 : RowWord(at, lane % kLanes);
  }
  LineMatch match;
#pragma unroll
  for (uint32_t pass = 0; pass < kPasses; ++pass) {
    const uint32_t wanted = __shfl_sync(kAllLanes, tag, pass * kAtOnce + lane / kLanes);
    const uint32_t bits = MatchTags(words[pass], wanted);
    const uint32_t lower = __ballot_sync(kAllLanes, bits & 1);
    const uint32_t upper = __ballot_sync(kAllLanes, bits & 2);
    const uint32_t group = lane % kAtOnce;
    const uint32_t first =
        __shfl_sync(kAllLanes, static_cast<uint32_t>(words[pass]), group * kLanes);
    if (lane / kAtOnce == pass && line != nullptr) {
      constexpr uint32_t kMask = (1u << kLanes) - 1;
      match.lower = lower >> (group * kLanes) & kMask;
      match.upper = upper >> (group * kLanes) & kMask;
      match.first = first;
    }
  }
  return match;
}

// The rows of one warp that are to be written: each lane has its own row's address, null for
// zeros; `todo` has a bit for each row that is to be written at all.
struct Tile {
  const std::byte* row = nullptr;
  uint32_t todo = 0;
  std::byte* out = nullptr;  // of the tile's first row
};

// kWords: words of a row where they are known while this is compiled and rows are whole words, so
// that the output is one stretch of words; else 0.
template <uint32_t kRows, uint32_t kWords>
__device__ void CopyRaw(const Tile& tile, uint32_t row_bytes, uint32_t lane) {
  const uint32_t words = kWords == 0 ? (row_bytes + 7) / 8 : kWords;
  const uint32_t all = kRows * words;
#pragma unroll 11
  for (uint32_t begin = 0; begin < all; begin += kWarp) {
    const uint32_t at = begin + lane;
    const uint32_t row = min(at / words, kRows - 1);
    const uint32_t word = at - row * words;
    const std::byte* const from = Shuffle(tile.row, row);
    if (at >= all || (tile.todo >> row & 1) == 0) continue;
    const uint64_t value = from == nullptr ? 0 : RowWord(from, word);
    if constexpr (kWords != 0) {
      reinterpret_cast<uint64_t*>(tile.out)[at] = value;
    } else {
      StoreWord(tile.out + uint64_t{row} * row_bytes, row_bytes, word, value);
    }
  }
}

template <uint32_t kRows>
__device__ void CopyBf16(const Tile& tile, uint32_t row_bytes, uint32_t lane) {
  const uint32_t values = QuantisedValues(row_bytes);
#pragma unroll 4
  for (uint32_t row = 0; row < kRows; ++row) {
    const std::byte* const from = Shuffle(tile.row, row);
    if ((tile.todo >> row & 1) == 0) continue;
    auto* const out = reinterpret_cast<Bf16x8*>(tile.out + uint64_t{row} * values * 2);
    for (uint32_t word = lane; word < values / 8; word += kWarp) {
      out[word] = from == nullptr ? Bf16x8{} : RowWordAsBf16(from, values, word);
    }
  }
}

struct Counts {
  uint32_t hbm = 0;
  uint32_t dram = 0;
  uint32_t zeros = 0;
};

// kBf16: kWords is not used.
template <uint32_t kRows, uint32_t kWords, bool kBf16>
class WarpGather {
 public:
  __device__ WarpGather(const GatherArgs& args, uint32_t lane)
      : args_(args), source_(*args.source), lane_(lane), launch_(args.scratch->launches) {}

  // Positions from tile * kRows on.
  __device__ void Gather(uint32_t number, Counts& counts) {
    const uint32_t first = number * kRows;
    const uint32_t position = first + lane_;
    const bool valid = lane_ < kRows && position < args_.count;
    const uint32_t id = valid ? args_.ids[position] : kNoRowId;
    const bool wanted = id != kNoRowId;
    bool pending = wanted;
    bool served = false;
    bool from_hbm = false;
    Tile tile;
    tile.todo = __ballot_sync(kAllLanes, valid);
    tile.out = args_.out + uint64_t{first} * OutputRowBytes(source_.row_bytes, args_.output);
    for (int attempt = 0; attempt < kAttempts && tile.todo != 0; ++attempt) {
      const RegionNow region = ReadRegion(source_);
      const FoundRow found = Find(region, id, pending);
      const bool uses_dram = __ballot_sync(kAllLanes, found.row != nullptr && !found.in_hbm) != 0;
      FenceReads(uses_dram);
      tile.row = found.row;
      Copy(tile);
      FenceReads(uses_dram);
      const uint64_t epoch = source_.arena == nullptr ? 0 : Load64(&RegionIn(source_)->epoch);
      const uint64_t generation = uses_dram ? Load64(source_.dram.generation) : 0;
      const bool believed =
          found.row != nullptr && IsBelieved(source_, region, found, epoch, generation);
      served = served || believed;
      from_hbm = from_hbm || (believed && found.in_hbm);
      pending = found.row != nullptr && !believed;
      tile.todo = __ballot_sync(kAllLanes, pending);
    }
    if (tile.todo != 0) {  // copied, and never believed
      tile.row = nullptr;
      Copy(tile);
    }
    Report(position, valid, id, served);
    counts.hbm += __popc(__ballot_sync(kAllLanes, from_hbm));
    counts.dram += __popc(__ballot_sync(kAllLanes, served && !from_hbm));
    counts.zeros += __popc(__ballot_sync(kAllLanes, valid && !wanted));
  }

 private:
  __device__ FoundRow Find(const RegionNow& region, uint32_t id, bool pending) {
    const std::byte* const sector = pending ? SectorAt(region, id) : nullptr;
    const LineMatch match = MatchLines<kSectorBytes / 8, kRows>(sector, TagOf(id), lane_);
    FoundRow found;
    if (sector != nullptr) {
      found = FoundInArena(source_, region, id, WayOfMatches(match.lower, match.upper));
    }
    const bool missing = pending && found.row == nullptr;
    if (__ballot_sync(kAllLanes, missing) == 0) return found;
    // One lane's word for all: they have to go on together.
    if (__shfl_sync(kAllLanes, DramHolds(source_.dram) ? 1 : 0, 0) == 0) return found;
    if (source_.dram.resident != 0) {
      if (missing) found.row = DramResidentRow(source_.dram, id);
      return found;
    }
    const std::byte* const set = missing ? DramSetOf(source_.dram, id) : nullptr;
    const LineMatch in_set = MatchLines<sizeof(dram::TagLine) / 8, kRows>(set, TagOf(id), lane_);
    if (missing) {
      found = FoundInDramSet(source_.dram, set, in_set.first,
                             DramWayOfMatches(in_set.lower, in_set.upper));
    }
    return found;
  }

  __device__ void Copy(const Tile& tile) {
    if constexpr (kBf16) {
      CopyBf16<kRows>(tile, source_.row_bytes, lane_);
    } else {
      CopyRaw<kRows, kWords>(tile, source_.row_bytes, lane_);
    }
  }

  __device__ void Report(uint32_t position, bool valid, uint32_t id, bool served) {
    const bool missing = valid && id != kNoRowId && !served;
    const uint32_t lanes = __ballot_sync(kAllLanes, missing);
    if (lanes != 0) {
      uint32_t at = 0;
      if (lane_ == 0) at = atomicAdd(&args_.scratch->missing, __popc(lanes));
      at = __shfl_sync(kAllLanes, at, 0);
      if (missing) args_.missing[at + __popc(lanes & ((1u << lane_) - 1))] = {position, id};
    }
    if (valid && IsSampled(args_, launch_, position)) {
      args_.samples[position / args_.sample_every] = served ? id : kNoRowId;
    }
  }

  const GatherArgs& args_;
  const Source source_;
  const uint32_t lane_;
  const uint64_t launch_;
};

// The last block to come here reports, and makes the scratch ready for the next launch.
__device__ void Finish(const GatherArgs& args, const Counts& counts) {
  Scratch& scratch = *args.scratch;
  if (counts.hbm != 0) atomicAdd(&scratch.hbm_rows, counts.hbm);
  if (counts.dram != 0) atomicAdd(&scratch.dram_rows, counts.dram);
  if (counts.zeros != 0) atomicAdd(&scratch.zero_rows, counts.zeros);
  __threadfence();
  if (atomicAdd(&scratch.finished_blocks, 1u) + 1 != gridDim.x) return;
  __threadfence();
  Report& report = *args.report;
  report.missing = atomicExch(&scratch.missing, 0u);
  report.samples = Samples(args, scratch.launches);
  report.hbm_rows = atomicAdd(&scratch.hbm_rows, 0ull);
  report.dram_rows = atomicAdd(&scratch.dram_rows, 0ull);
  report.zero_rows = atomicAdd(&scratch.zero_rows, 0ull);
  report.launches = ++scratch.launches;
  scratch.finished_blocks = 0;
}

constexpr uint32_t kBlockThreads = 128;

template <uint32_t kRows, uint32_t kWords, bool kBf16>
__global__ void __launch_bounds__(kBlockThreads) GatherKernel(const GatherArgs args) {
  __shared__ Counts block_counts;
  if (threadIdx.x == 0) block_counts = Counts{};
  __syncthreads();
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t tiles = (args.count + kRows - 1) / kRows;
  const uint32_t warps = gridDim.x * (kBlockThreads / kWarp);
  WarpGather<kRows, kWords, kBf16> warp(args, lane);
  Counts counts;
  for (uint32_t tile = (blockIdx.x * kBlockThreads + threadIdx.x) / kWarp; tile < tiles;
       tile += warps) {
    warp.Gather(tile, counts);
  }
  if (lane == 0) {
    atomicAdd(&block_counts.hbm, counts.hbm);
    atomicAdd(&block_counts.dram, counts.dram);
    atomicAdd(&block_counts.zeros, counts.zeros);
  }
  __syncthreads();
  if (threadIdx.x == 0) Finish(args, block_counts);
}

template <uint32_t kRows, uint32_t kWords, bool kBf16>
cudaError_t Launch(const GatherArgs& args, int processors, cudaStream_t stream) {
  constexpr uint32_t kRowsOfBlock = kRows * (kBlockThreads / kWarp);
  // As many blocks as the device can run at once; each goes on to further rows.
  const uint32_t most = static_cast<uint32_t>(processors) * (2048 / kBlockThreads);
  const uint32_t blocks = (args.count + kRowsOfBlock - 1) / kRowsOfBlock;
  const uint32_t grid = blocks < 1 ? 1 : blocks < most ? blocks : most;
  GatherKernel<kRows, kWords, kBf16><<<grid, kBlockThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

// Small batches get a warp a row, so that all rows are under way at once.
template <uint32_t kWords, bool kBf16>
cudaError_t LaunchBySize(const GatherArgs& args, int processors, cudaStream_t stream) {
  const auto warps = static_cast<uint32_t>(processors) * (2048 / kWarp);
  if (args.count <= warps) return Launch<1, kWords, kBf16>(args, processors, stream);
  if (args.count <= 8 * warps) return Launch<8, kWords, kBf16>(args, processors, stream);
  return Launch<32, kWords, kBf16>(args, processors, stream);
}

__global__ void ScatterKernel(std::byte* arena, const uint64_t* offsets, uint32_t words,
                              const uint64_t* records, uint64_t all) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t at = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < all; at += step) {
    const uint64_t record = at / words;
    auto* const to = reinterpret_cast<uint64_t*>(arena + offsets[record]);
    to[at - record * words] = records[at];
  }
}

__global__ void CollectKernel(const std::byte* arena, const uint64_t* offsets, uint32_t words,
                              uint64_t* records, uint64_t all) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t at = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < all; at += step) {
    const uint64_t record = at / words;
    records[at] = RowWord(arena + offsets[record], static_cast<uint32_t>(at - record * words));
  }
}

__global__ void PublishKernel(uint64_t* word, uint64_t value) {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}

__global__ void CompleteKernel(const uint32_t* positions, const std::byte* rows, uint32_t row_bytes,
                               Output output, std::byte* out, uint32_t count) {
  const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= count) return;
  StoreRow(row_bytes, output, rows + row * RowStride(row_bytes),
           out + positions[row] * OutputRowBytes(row_bytes, output));
}

uint32_t BlocksFor(uint64_t threads, uint32_t block) {
  const uint64_t blocks = (threads + block - 1) / block;
  return static_cast<uint32_t>(blocks < 4096 ? blocks : 4096);
}

}  // namespace

cudaError_t LaunchGather(const GatherArgs& args, uint32_t row_bytes, int processors,
                         cudaStream_t stream) {
  if (args.output == Output::kBf16) return LaunchBySize<0, true>(args, processors, stream);
  const bool whole_words = reinterpret_cast<uintptr_t>(args.out) % 8 == 0;
  // Row sizes of known models (facts of their checkpoints: see storage/checkpoint).
  switch (whole_words ? row_bytes : 0) {
    case 128:
      return LaunchBySize<16, false>(args, processors, stream);
    case 160:
      return LaunchBySize<20, false>(args, processors, stream);
    case 264:
      return LaunchBySize<33, false>(args, processors, stream);
    case 320:
      return LaunchBySize<40, false>(args, processors, stream);
    default:
      return LaunchBySize<0, false>(args, processors, stream);
  }
}

cudaError_t LaunchScatter(std::byte* arena, const uint64_t* offsets, uint32_t record_bytes,
                          const std::byte* records, uint32_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto words = static_cast<uint32_t>(RowStride(record_bytes) / 8);
  const uint64_t all = uint64_t{count} * words;
  ScatterKernel<<<BlocksFor(all, 256), 256, 0, stream>>>(
      arena, offsets, words, reinterpret_cast<const uint64_t*>(records), all);
  return cudaGetLastError();
}

cudaError_t LaunchCollect(const std::byte* arena, const uint64_t* offsets, uint32_t record_bytes,
                          std::byte* records, uint32_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto words = static_cast<uint32_t>(RowStride(record_bytes) / 8);
  const uint64_t all = uint64_t{count} * words;
  CollectKernel<<<BlocksFor(all, 256), 256, 0, stream>>>(arena, offsets, words,
                                                         reinterpret_cast<uint64_t*>(records), all);
  return cudaGetLastError();
}

cudaError_t LaunchPublish(uint64_t* word, uint64_t value, cudaStream_t stream) {
  PublishKernel<<<1, 1, 0, stream>>>(word, value);
  return cudaGetLastError();
}

cudaError_t LaunchComplete(const uint32_t* positions, const std::byte* rows, uint32_t row_bytes,
                           Output output, std::byte* out, uint32_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  CompleteKernel<<<(count + 63) / 64, 64, 0, stream>>>(positions, rows, row_bytes, output, out,
                                                       count);
  return cudaGetLastError();
}

}  // namespace engram::gpu_cache
