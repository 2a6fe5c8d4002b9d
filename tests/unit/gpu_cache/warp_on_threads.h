// The kernels' code on a processor: a warp is 32 threads, which meet wherever a warp's do. What one
// lane reads or writes is interleaved with the others' in any way, as a GPU may do it too.
#ifndef ENGRAM_TESTS_UNIT_GPU_CACHE_WARP_ON_THREADS_H_
#define ENGRAM_TESTS_UNIT_GPU_CACHE_WARP_ON_THREADS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "gpu_cache/gather_warp.h"

namespace engram::gpu_cache {

// Where threads wait for each other: many more than there are processors, and mostly not for long.
// (std::barrier looks at its state with an acquiring load each time, which ThreadSanitizer makes
// slow with so many threads.)
class Meeting {
 public:
  explicit Meeting(uint32_t threads) : threads_(threads) {}

  void Wait() {
    const uint32_t round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    constexpr int kYields = 100;
    for (int i = 0; i < kYields && round_.load(std::memory_order_relaxed) == round; ++i) {
      std::this_thread::yield();
    }
    round_.wait(round, std::memory_order_acquire);
  }

 private:
  const uint32_t threads_;
  std::atomic<uint32_t> arrived_{0};
  std::atomic<uint32_t> round_{0};
};

// What the lanes of one warp tell each other.
struct WarpBoard {
  Meeting meeting{kWarp};
  // Taken in turns: when a lane writes to one again, all have read what was there.
  uint64_t values[2][kWarp] = {};
};

// How often a warp's lanes have met, of all warps: a measure of time for those who change what they
// read, which is the same however busy the machine is.
inline std::atomic<uint64_t>& WarpSteps() {
  static std::atomic<uint64_t> steps{0};
  return steps;
}

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
  void Sync() const { Meet(); }
  uint32_t Add(uint32_t* to, uint32_t value) const {
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
  }

 private:
  const uint64_t* Tell(uint64_t value) const {
    uint64_t* const values = board_.values[turn_];
    turn_ ^= 1;
    values[lane_] = value;
    Meet();
    return values;
  }
  void Meet() const {
    if (lane_ == 0) WarpSteps().fetch_add(1, std::memory_order_relaxed);
    board_.meeting.Wait();
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
          begin_.Wait();
          if (job_ == nullptr) return;
          job_(lane);
          end_.Wait();
        }
      });
    }
  }
  ~WarpThreads() {
    job_ = nullptr;
    begin_.Wait();
    for (std::thread& thread : threads_) thread.join();
  }

  void Run(std::function<void(uint32_t lane)> job) {
    job_ = std::move(job);
    begin_.Wait();
    end_.Wait();
  }

 private:
  Meeting begin_{kWarp + 1};
  Meeting end_{kWarp + 1};
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
