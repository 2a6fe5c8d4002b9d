// The file system under RocksDB: its own, except that batched reads of SST files go through
// io_uring. Debian's RocksDB is built without liburing, and one pread after another reaches a
// quarter of what the drive can do.
//
// Each reading thread has a ring of its own, made at its first batched read. All that is not a
// batched read goes to the base file system. When a ring cannot be made on some thread, that thread
// reads through the base, and the fall-back is counted. A direct read that is not aligned is
// refused with InvalidArgument. Thread-safe.
//
// RocksDB 7.8 calls MultiRead from BlockBasedTable::RetrieveMultipleBlocks with up to 32 blocks of
// one file; under direct I/O RandomAccessFileReader has aligned each request to
// GetRequiredBufferAlignment() and merged those that touch, and owns one aligned buffer for all.
#ifndef ENGRAM_STORAGE_NVME_URING_FILE_SYSTEM_H_
#define ENGRAM_STORAGE_NVME_URING_FILE_SYSTEM_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"

namespace rocksdb {
class FileSystem;
}

namespace engram {

// What became of the batched reads; for Describe() and tests. Relaxed counters.
struct UringCounters {
  std::atomic<uint64_t> ring_reads{0};      // requests that went through a ring
  std::atomic<uint64_t> fallback_reads{0};  // requests that went to the base file system
};

// `counters` may be null; it must outlive the file system.
std::shared_ptr<rocksdb::FileSystem> NewUringFileSystem(std::shared_ptr<rocksdb::FileSystem> base,
                                                        UringCounters* counters);

// Whether files in `directory` take O_DIRECT: OK, or Unavailable with the reason. Writes and
// removes one small file there; ResourceExhausted when there is no room for it.
absl::Status ProbeDirectIo(const std::string& directory);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_URING_FILE_SYSTEM_H_
