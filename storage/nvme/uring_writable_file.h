// The file under an SstFileWriter: what is appended is gathered in a few aligned buffers, and each
// full one is written directly, through io_uring, while the next is filled. RocksDB's own direct
// files write one buffer after the other and wait for each.
//
// Sync and Close wait for every write, cut the file to its size, and report the first error, with
// the offset and the file; after an error nothing more is written. A write that io_uring refuses to
// take (the ring cannot be made, or broke) is done by pwrite. No room is IOStatus::NoSpace. The
// memory is kBuffers × kBufferBytes for each file that is open. One thread at a time.
//
// It takes appends, as a buffered file does, and aligns them itself: use_direct_io() is false, so
// that RocksDB does not first gather the same bytes in a buffer of its own.
#ifndef ENGRAM_STORAGE_NVME_URING_WRITABLE_FILE_H_
#define ENGRAM_STORAGE_NVME_URING_WRITABLE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace rocksdb {
class FileSystem;
class FSWritableFile;
class IOStatus;
struct FileOptions;
struct IODebugContext;
}  // namespace rocksdb

namespace engram {

struct UringWriteOptions {
  static constexpr size_t kBufferBytes = size_t{1} << 20;
  static constexpr size_t kBuffers = 8;

  // Space is taken for so many bytes at once: a direct write that makes a file longer has the file
  // to itself, so without this none would overlap. Too many or too few cost time, nothing else.
  uint64_t expected_bytes = 0;
  // What a write is taken to have answered, given what it did answer (bytes, or a negated errno); a
  // test puts faults here.
  std::function<int32_t(uint64_t offset, size_t bytes, int32_t result)> on_write;
  // Likewise of a sync: 0, or a negated errno.
  std::function<int(int result)> on_sync = nullptr;
};

// Makes the file, or empties it. NotSupported: its file system takes no direct writes; nothing is
// left behind. IOError, NoSpace: it cannot be made.
rocksdb::IOStatus NewUringWritableFile(const std::string& name, UringWriteOptions options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* result);

// What the store's file system makes for NewWritableFile: a UringWritableFile while this thread
// holds an ExpectedFileBytes and asks for direct writes, else (and where those are refused) what
// `base` makes.
rocksdb::IOStatus NewBulkFile(rocksdb::FileSystem& base, const std::string& name,
                              const rocksdb::FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              rocksdb::IODebugContext* debug);

// While it lives, files that this thread makes are to be UringWritableFiles of about so many bytes:
// the loader knows the size, and RocksDB, which stands between, has no place for it.
class ExpectedFileBytes {
 public:
  explicit ExpectedFileBytes(uint64_t bytes);
  ~ExpectedFileBytes();
  ExpectedFileBytes(const ExpectedFileBytes&) = delete;
  ExpectedFileBytes& operator=(const ExpectedFileBytes&) = delete;

  static uint64_t current();  // 0: none

 private:
  const uint64_t before_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_URING_WRITABLE_FILE_H_
