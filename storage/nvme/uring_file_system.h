// The file system under RocksDB: its own, except that asynchronous reads of SST files
// (FSRandomAccessFile::ReadAsync, FileSystem::Poll) go through io_uring. Debian's RocksDB is built
// without liburing; there a ReadAsync is one pread after the other, a quarter of what the drive
// can do.
//
// Each reading thread has a ring of its own, made at its first asynchronous read; reads are
// submitted by that thread's next Poll or AbortIO, and their callbacks run in it. So a read is
// polled for on the thread that started it. When a ring cannot be made, or breaks, that thread
// reads through the base, and the fall-back is counted. A direct read that is not aligned is
// refused with InvalidArgument. Everything else is the base's. Thread-safe.
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

// Reads that one thread can have under way.
inline constexpr unsigned kMaxReadsInFlight = 1024;

// What became of the asynchronous reads; for Describe() and tests. Relaxed counters.
struct UringCounters {
  std::atomic<uint64_t> ring_reads{0};      // finished by a ring
  std::atomic<uint64_t> fallback_reads{0};  // by the base file system
};

// `counters` (of the reads meant for a ring) may be null; it must outlive the file system.
std::shared_ptr<rocksdb::FileSystem> NewUringFileSystem(std::shared_ptr<rocksdb::FileSystem> base,
                                                        bool use_ring, UringCounters* counters);

// Whether files in `directory` take O_DIRECT: OK, or Unavailable with the reason. Writes and
// removes one small file there; ResourceExhausted when there is no room for it.
absl::Status ProbeDirectIo(const std::string& directory);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_URING_FILE_SYSTEM_H_
