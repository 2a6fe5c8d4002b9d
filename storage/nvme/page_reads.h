// Reading many blocks of many files at once, with a bounded number under way at the drive.
//
// A ReadBudget says how many reads the drive is to have at once, over all threads of the daemon.
// ReadBlocks keeps that many of one batch in flight, whatever files they lie in, and hands each
// over when it comes. With a file system that cannot read asynchronously it reads one after the
// other.
#ifndef ENGRAM_STORAGE_NVME_PAGE_READS_H_
#define ENGRAM_STORAGE_NVME_PAGE_READS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "storage/base/direct_memory.h"
#include "storage/base/mutex.h"

namespace rocksdb {
class FileSystem;
class FSRandomAccessFile;
}  // namespace rocksdb

namespace engram {

// Shared by all readers of a drive. Thread-safe, and nobody ever waits for it: a batch may always
// have its fair share under way (the depth divided by the batches being read, one read at least),
// so every batch makes progress, and more while the drive has room. When a batch joins others, the
// drive has its share on top until theirs have come down to their new ones. The memory that is read
// into goes from batch to batch: there is as much of it as batches were ever read at once.
class ReadBudget {
 public:
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

  // One batch, while it is being read. One thread at a time.
  class Batch {
   public:
    explicit Batch(ReadBudget& budget) : budget_(budget) { budget_.batches_.fetch_add(1); }
    ~Batch() { budget_.batches_.fetch_sub(1); }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    // Whether one more read may be started; Started and Finished say what is.
    bool MayStart() const {
      // Relaxed: both numbers only steer; a stale one means a read more or less for a moment.
      const unsigned share = budget_.depth_ / budget_.batches_.load(std::memory_order_relaxed);
      if (mine_ == 0 || mine_ < share) return true;
      return budget_.in_flight_.load(std::memory_order_relaxed) < budget_.depth_;
    }
    void Started() {
      ++mine_;
      budget_.in_flight_.fetch_add(1, std::memory_order_relaxed);
    }
    void Finished() {
      --mine_;
      budget_.in_flight_.fetch_sub(1, std::memory_order_relaxed);
    }
    unsigned in_flight() const { return mine_; }

   private:
    ReadBudget& budget_;
    unsigned mine_ = 0;
  };

 private:
  const unsigned depth_;
  std::atomic<unsigned> batches_{0};
  std::atomic<unsigned> in_flight_{0};
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
    rocksdb::FileSystem& file_system, ReadBudget& budget, size_t count, uint32_t max_block_bytes,
    absl::FunctionRef<BlockRead(size_t)> block,
    absl::FunctionRef<void(size_t, const absl::Status&, absl::Span<const std::byte>)> done);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_PAGE_READS_H_
