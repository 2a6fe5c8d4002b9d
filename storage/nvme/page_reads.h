// Reading many blocks of many files at once, with a bounded number under way at the drive.
//
// A ReadBudget says how many reads the drive is to have at once, over all threads of the daemon.
// ReadBlocks keeps that many of one batch in flight, whatever files they lie in, and hands each
// over when it comes. With a file system that cannot read asynchronously it reads one after the
// other.
#ifndef ENGRAM_STORAGE_NVME_PAGE_READS_H_
#define ENGRAM_STORAGE_NVME_PAGE_READS_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "storage/base/direct_memory.h"
#include "storage/base/mutex.h"
#include "storage/nvme/store.h"

namespace rocksdb {
class FileSystem;
class FSRandomAccessFile;
}  // namespace rocksdb

namespace engram {

// Shared by all readers of a drive. Thread-safe, and nobody ever waits for it: a batch may always
// have its fair share under way (the depth divided by the batches being read, one read at least),
// so every batch makes progress, and more while the drive has room. When a batch joins others, the
// drive has its share on top until theirs have come down to their new ones.
//
// Urgent batches share the depth among themselves. A drive answers what it has in its queue nearly
// in turn, so while one is being read, and for the next kCalmReads reads of the others, these keep
// only depth / kCalmDivisor under way: the next token's rows find a short queue.
//
// The memory that is read into goes from batch to batch: there is as much of it as batches were
// ever read at once.
class ReadBudget {
 public:
  // Tried on a cloud drive at depth 128 (tests/bench/RESULTS.md, `fair`): 4 gives 48 urgent reads
  // beside others 1.5 times what they take alone, and the others 0.8 of their rate.
  static constexpr unsigned kCalmDivisor = 2;
  // Some 10 ms at 100,000 reads a second: longer than a decoding engine takes from token to token.
  static constexpr int kCalmReads = 1024;

  // Requires depth ≥ 1.
  explicit ReadBudget(unsigned depth) : depth_(depth) {}

  unsigned depth() const { return depth_; }

  struct Memory {
    DirectMemory data;
    size_t bytes = 0;
  };
  // `bytes` or more, not cleared; to be given back when no read is under way into it.
  Memory Take(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveBack(Memory memory) ABSL_LOCKS_EXCLUDED(mutex_);

  // What the batches of one priority have under way.
  struct Group {
    std::atomic<unsigned> batches{0};
    std::atomic<unsigned> in_flight{0};
  };
  // One batch, while it is being read. One thread at a time.
  class Batch {
   public:
    Batch(ReadBudget& budget, ReadPriority priority)
        : budget_(budget),
          urgent_(priority == ReadPriority::kUrgent),
          group_(urgent_ ? budget.urgent_ : budget.normal_) {
      group_.batches.fetch_add(1, std::memory_order_relaxed);
    }
    ~Batch() {
      group_.batches.fetch_sub(1, std::memory_order_relaxed);
      if (urgent_) budget_.calm_reads_.store(kCalmReads, std::memory_order_relaxed);
    }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    // Whether one more read may be started; Started and Finished say what is. All numbers only
    // steer, hence relaxed: a stale one means a read more or less for a moment.
    bool MayStart() const {
      const unsigned depth = urgent_ ? budget_.depth_ : budget_.NormalDepth();
      const unsigned share = depth / group_.batches.load(std::memory_order_relaxed);
      if (mine_ == 0 || mine_ < share) return true;
      return budget_.InFlight() < depth;
    }
    void Started() {
      ++mine_;
      group_.in_flight.fetch_add(1, std::memory_order_relaxed);
      if (!urgent_ && budget_.calm_reads_.load(std::memory_order_relaxed) > 0) {
        budget_.calm_reads_.fetch_sub(1, std::memory_order_relaxed);
      }
    }
    void Finished() {
      --mine_;
      group_.in_flight.fetch_sub(1, std::memory_order_relaxed);
    }
    unsigned in_flight() const { return mine_; }

   private:
    ReadBudget& budget_;
    const bool urgent_;
    Group& group_;
    unsigned mine_ = 0;
  };

 private:
  unsigned NormalDepth() const {
    const bool calm = urgent_.batches.load(std::memory_order_relaxed) > 0 ||
                      calm_reads_.load(std::memory_order_relaxed) > 0;
    return calm ? std::max(depth_ / kCalmDivisor, 1u) : depth_;
  }
  unsigned InFlight() const {
    return urgent_.in_flight.load(std::memory_order_relaxed) +
           normal_.in_flight.load(std::memory_order_relaxed);
  }

  const unsigned depth_;
  Group urgent_;
  Group normal_;
  std::atomic<int> calm_reads_{0};
  Mutex mutex_;
  std::vector<Memory> idle_ ABSL_GUARDED_BY(mutex_);
};

struct BlockRead {
  rocksdb::FSRandomAccessFile* file = nullptr;
  uint64_t offset = 0;
  uint32_t bytes = 0;
};

// Reads blocks 0 … count − 1, as `block` describes them, started in this order; `done` is called
// once for each, on this thread, in the order in which they come: with the bytes (fewer than asked
// for at the end of a file), which are gone when it returns, or with the reason why there are none.
// Blocks until all are done. No block has more than `max_block_bytes`, a multiple of 4 KiB; with
// direct I/O all offsets and sizes are.
void ReadBlocks(
    rocksdb::FileSystem& file_system, ReadBudget& budget, ReadPriority priority, size_t count,
    uint32_t max_block_bytes, absl::FunctionRef<BlockRead(size_t)> block,
    absl::FunctionRef<void(size_t, const absl::Status&, absl::Span<const std::byte>)> done);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_PAGE_READS_H_
