// What became of rows that prefetches brought into a row cache. Statistics only, so relaxed is
// enough everywhere. Thread-safe. Once all is at rest, each stored row is used, unused or waiting;
// a read that is just under way when its row is replaced may take the new row's mark.
#ifndef ENGRAM_STORAGE_DRAM_PREFETCH_COUNTERS_H_
#define ENGRAM_STORAGE_DRAM_PREFETCH_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace engram {

struct PrefetchCounters {
  std::atomic<uint64_t> stored{0};  // rows taken from prefetches
  std::atomic<uint64_t> used{0};    // of them, read since, however often
  std::atomic<uint64_t> unused{0};  // evicted, or gone with their cache, before anybody read them

  // Stored rows that are held and were not read yet. A snapshot of moving numbers.
  uint64_t Waiting() const {
    const uint64_t done =
        used.load(std::memory_order_relaxed) + unused.load(std::memory_order_relaxed);
    const uint64_t all = stored.load(std::memory_order_relaxed);
    return all > done ? all - done : 0;
  }
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_PREFETCH_COUNTERS_H_
