// The kernels. What they do is in gather_warp.h and gather_rows.h; here is only who does it.
#include <algorithm>

#include "gpu_cache/gather.h"
#include "gpu_cache/gather_rows.h"
#include "gpu_cache/gather_warp.h"
#include "gpu_cache/kernels.h"

namespace engram::gpu_cache {
namespace {

constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

class CudaLanes {
 public:
  __device__ __forceinline__ uint32_t lane() const { return lane_; }
  __device__ __forceinline__ uint32_t Ballot(bool vote) const {
    return __ballot_sync(kAllLanes, vote);
  }
  __device__ __forceinline__ uint32_t Shuffle(uint32_t value, uint32_t from) const {
    return __shfl_sync(kAllLanes, value, from);
  }
  __device__ __forceinline__ uint64_t Shuffle(uint64_t value, uint32_t from) const {
    return __shfl_sync(kAllLanes, value, from);
  }
  __device__ __forceinline__ void Sync() const { __syncwarp(); }
  __device__ __forceinline__ uint32_t Add(uint32_t* to, uint32_t value) const {
    return atomicAdd(to, value);
  }

 private:
  const uint32_t lane_ = threadIdx.x % kWarp;
};

// All that this block has done is seen by whoever comes later, which is told what was there.
__device__ __forceinline__ uint64_t Arrive(unsigned long long* arrived, uint64_t arrival) {
  uint64_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], %2;"
               : "=l"(before)
               : "l"(arrived), "l"(arrival)
               : "memory");
  return before;
}

constexpr uint32_t kBlockThreads = 128;
constexpr uint32_t kBlockWarps = kBlockThreads / kWarp;

// What a thread keeps in registers decides how many blocks a multiprocessor runs at once.
constexpr uint32_t BlocksAtOnce(uint32_t rows, bool bf16) {
  if (rows == 1) return 8;
  return rows == 8 ? (bf16 ? 6 : 8) : (bf16 ? 4 : 5);
}

template <uint32_t kRows, uint32_t kRowBytes, bool kBf16>
__global__ void __launch_bounds__(kBlockThreads, BlocksAtOnce(kRows, kBf16))
    GatherKernel(const __grid_constant__ GatherArgs args) {
  // Read by all threads, and too much for registers.
  static_assert(sizeof(Source) % 8 == 0 && sizeof(Source) / 8 <= kBlockThreads);
  __shared__ alignas(16) uint64_t source_words[sizeof(Source) / 8];
  __shared__ uint32_t hbm_rows;
  __shared__ uint32_t dram_rows;
  const CudaLanes lanes;
  using Warp = WarpGather<CudaLanes, kRows, kRowBytes, kBf16>;
  Warp warp(args, reinterpret_cast<const Source&>(source_words), lanes);
  const uint32_t tiles = Warp::Tiles(args.count);
  const uint32_t warps = gridDim.x * kBlockWarps;
  uint32_t tile = (blockIdx.x * kBlockThreads + threadIdx.x) / kWarp;
  uint32_t id = warp.IdOf(tile);
  if (threadIdx.x < sizeof(Source) / 8) {
    source_words[threadIdx.x] = reinterpret_cast<const uint64_t*>(args.source)[threadIdx.x];
  }
  if (threadIdx.x == 0) hbm_rows = dram_rows = 0;
  __syncthreads();
  Counts counts;
  for (; tile < tiles; tile += warps) {
    const uint32_t next_id = warp.IdOf(tile + warps);
    warp.Gather(tile, id, counts);
    id = next_id;
  }
  const uint32_t hbm = __reduce_add_sync(kAllLanes, counts.hbm);
  const uint32_t dram = __reduce_add_sync(kAllLanes, counts.dram);
  if (lanes.lane() == 0) {
    if (hbm != 0) atomicAdd(&hbm_rows, hbm);
    if (dram != 0) atomicAdd(&dram_rows, dram);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const uint64_t arrival = ArrivalOf(hbm_rows, dram_rows);
  const uint64_t all = Arrive(&args.scratch->arrived, arrival) + arrival;
  if (BlocksOf(all) != gridDim.x) return;
  FinishLaunch(args, args.scratch->missing, HbmRowsOf(all), DramRowsOf(all));
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
  const auto at_once = static_cast<uint32_t>(processors);
  const auto launch = [&]<uint32_t kRows, uint32_t kRowBytes, bool kBf16>() {
    // As many blocks as the device can run at once; each goes on to further rows.
    const uint32_t most = std::min(at_once * BlocksAtOnce(kRows, kBf16), kMaxBlocks);
    const uint32_t rows = kRows * kBlockWarps;
    const uint32_t grid = std::clamp((args.count + rows - 1) / rows, 1u, most);
    GatherKernel<kRows, kRowBytes, kBf16><<<grid, kBlockThreads, 0, stream>>>(args);
    return cudaGetLastError();
  };
  return ChooseWarps(args, row_bytes, at_once * BlocksAtOnce(1, false) * kBlockWarps, launch);
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
