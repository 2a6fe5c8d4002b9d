// The kernels' code on a processor: a warp is 32 threads, which meet wherever a warp's do. What one
// lane reads or writes is interleaved with the others' in any way, as a GPU may do it too.
#ifndef ENGRAM_TESTS_UNIT_GPU_CACHE_WARP_ON_THREADS_H_
#define ENGRAM_TESTS_UNIT_GPU_CACHE_WARP_ON_THREADS_H_

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "gpu_cache/gather_warp.h"

namespace engram::gpu_cache {

// What the lanes of one warp tell each other.
struct WarpBoard {
  std::barrier<> barrier{kWarp};
  // Taken in turns: when a lane writes to one again, all have read what was there.
  uint64_t values[2][kWarp] = {};
};

class ThreadLanes {
 public:
  ThreadLanes(WarpBoard& board, uint32_t lane) : board_(board), lane_(lane) {}

  uint32_t lane() const { return lane_; }
  uint32_t Ballot(bool vote) const {
    const uint64_t* const votes = Tell(vote ? 1 : 0);
    uint32_t all = 0;
    for (uint32_t i = 0; i < kWarp; ++i) all |= static_cast<uint32_t>(votes[i]) << i;
    return all;
  }
  template <typename T>
  T Shuffle(T value, uint32_t from) const {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    return static_cast<T>(Tell(value)[from % kWarp]);
  }
  void Sync() const { board_.barrier.arrive_and_wait(); }
  uint32_t Add(uint32_t* to, uint32_t value) const {
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
  }

 private:
  const uint64_t* Tell(uint64_t value) const {
    uint64_t* const values = board_.values[turn_];
    turn_ ^= 1;
    values[lane_] = value;
    board_.barrier.arrive_and_wait();
    return values;
  }

  WarpBoard& board_;
  const uint32_t lane_;
  mutable uint32_t turn_ = 0;
};

// 32 threads that wait for something to do together.
class WarpThreads {
 public:
  WarpThreads() {
    for (uint32_t lane = 0; lane < kWarp; ++lane) {
      threads_.emplace_back([this, lane] {
        for (;;) {
          begin_.arrive_and_wait();
          if (job_ == nullptr) return;
          job_(lane);
          end_.arrive_and_wait();
        }
      });
    }
  }
  ~WarpThreads() {
    job_ = nullptr;
    begin_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }

  void Run(std::function<void(uint32_t lane)> job) {
    job_ = std::move(job);
    begin_.arrive_and_wait();
    end_.arrive_and_wait();
  }

 private:
  std::barrier<> begin_{kWarp + 1};
  std::barrier<> end_{kWarp + 1};
  std::function<void(uint32_t lane)> job_;
  std::vector<std::thread> threads_;
};

// As GatherKernel, with blocks of one warp, one after the other.
template <uint32_t kRows, uint32_t kRowBytes, bool kBf16>
void RunBlocks(const GatherArgs& args) {
  using Warp = WarpGather<ThreadLanes, kRows, kRowBytes, kBf16>;
  const uint32_t tiles = Warp::Tiles(args.count);
  const uint32_t blocks = std::clamp(tiles, 1u, 3u);
  thread_local WarpThreads threads;
  for (uint32_t block = 0; block < blocks; ++block) {
    WarpBoard board;
    std::vector<Counts> counts(kWarp);
    threads.Run([&](uint32_t lane) {
      const ThreadLanes lanes(board, lane);
      Warp warp(args, *args.source, lanes);
      uint32_t id = warp.IdOf(block);
      for (uint32_t tile = block; tile < tiles; tile += blocks) {
        const uint32_t next_id = warp.IdOf(tile + blocks);
        warp.Gather(tile, id, counts[lane]);
        id = next_id;
      }
    });
    Counts all;
    for (const Counts& one : counts) {
      all.hbm += one.hbm;
      all.dram += one.dram;
    }
    args.scratch->arrived += ArrivalOf(all.hbm, all.dram);
  }
  const uint64_t arrived = args.scratch->arrived;
  if (BlocksOf(arrived) != blocks) return;  // and nothing is reported: a test would see it
  FinishLaunch(args, args.scratch->missing, HbmRowsOf(arrived), DramRowsOf(arrived));
}

// Batches of 8 ids get a warp a row, those of 512 eight, larger ones sixteen.
inline void GatherOnThreads(const GatherArgs& args) {
  ChooseWarps(args, args.source->row_bytes, 8,
              [&]<uint32_t kRows, uint32_t kRowBytes, bool kBf16>() {
                RunBlocks<kRows, kRowBytes, kBf16>(args);
              });
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_TESTS_UNIT_GPU_CACHE_WARP_ON_THREADS_H_
