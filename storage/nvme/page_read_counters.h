// What went wrong in reading pages, for statistics.
#ifndef ENGRAM_STORAGE_NVME_PAGE_READ_COUNTERS_H_
#define ENGRAM_STORAGE_NVME_PAGE_READ_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace engram {

// Relaxed: nothing is decided by them.
struct PageReadCounters {
  std::atomic<uint64_t> failed{0};   // reads of pages whose rows could not be given
  std::atomic<uint64_t> retried{0};  // pages that came wrong, and right when asked for once more
  std::atomic<uint64_t> shared{0};   // pages that came with another batch's read
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_PAGE_READ_COUNTERS_H_
