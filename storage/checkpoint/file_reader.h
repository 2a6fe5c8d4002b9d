// FileReader: positioned reads of one immutable file that leave the page cache to others.
//
// Reads go around the page cache (O_DIRECT) where the file system allows it, which is probed at
// Open; otherwise through it, dropping the pages read (posix_fadvise). Nothing is mapped: a file
// that is cut short while it is open gives a Status, never a SIGBUS. Symbolic links are followed.
//
// Read is safe from any number of threads at once, each with a buffer of its own; it blocks on the
// drive. The reader owns its descriptors.
#ifndef ENGRAM_STORAGE_CHECKPOINT_FILE_READER_H_
#define ENGRAM_STORAGE_CHECKPOINT_FILE_READER_H_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/unique_fd.h"

namespace engram {

// Memory that direct I/O accepts. Grows, never shrinks. One thread at a time.
class AlignedBuffer {
 public:
  // Offsets, lengths and addresses of direct reads are multiples of this: enough for drives with
  // 512-byte and with 4 KiB sectors.
  static constexpr size_t kAlignment = 4096;

  // At least `bytes` of memory; what the buffer held before may be lost.
  std::byte* Reserve(size_t bytes);
  size_t capacity() const { return capacity_; }

 private:
  struct Free {
    void operator()(std::byte* data) const {
      ::operator delete (data, std::align_val_t{kAlignment});
    }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t capacity_ = 0;
};

class FileReader {
 public:
  struct Options {
    bool direct = true;  // false: do not even try O_DIRECT
    // What stands for pread(2); a test puts a faulty one here.
    std::function<ssize_t(int fd, void* data, size_t bytes, off_t offset)> pread;
  };

  // NotFound: no such file. PermissionDenied: it may not be read. InvalidArgument: it is not a
  // regular file. Unavailable: anything else that the system reports. All name `path`.
  static absl::StatusOr<std::unique_ptr<FileReader>> Open(const std::string& path, Options options);
  static absl::StatusOr<std::unique_ptr<FileReader>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }       // when it was opened
  int64_t mtime_ns() const { return mtime_ns_; }  // likewise; nanoseconds since 1970
  bool direct() const { return direct_.load(std::memory_order_relaxed); }

  // Reads `length` bytes at `offset` in one go and returns them; they lie in `buffer` and live
  // until its next use. One large request is far cheaper than many small ones.
  // OutOfRange: beyond bytes(). DataLoss: the file has become shorter since Open. Unavailable:
  // the read failed, errno in the text. All name the file.
  absl::StatusOr<absl::Span<const std::byte>> Read(uint64_t offset, uint64_t length,
                                                   AlignedBuffer& buffer) const;

 private:
  FileReader(std::string path, Options options);

  absl::Status OpenBuffered();
  absl::Status OpenDirect();
  absl::StatusOr<size_t> ReadDirect(uint64_t begin, absl::Span<std::byte> data,
                                    size_t needed) const;
  absl::Status ReadBuffered(uint64_t begin, absl::Span<std::byte> data) const;

  const std::string path_;
  const Options options_;
  UniqueFd buffered_fd_;
  UniqueFd direct_fd_;
  uint64_t bytes_ = 0;
  int64_t mtime_ns_ = 0;
  // Goes from true to false once, by whichever thread learns first that direct reads are refused.
  // Relaxed: it guards no other data, and a thread that sees it late only learns for itself.
  mutable std::atomic<bool> direct_{false};
};

// The whole of a small file. As FileReader::Open, and InvalidArgument if it is longer than
// `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t max_bytes);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_FILE_READER_H_
