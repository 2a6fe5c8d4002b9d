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
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/direct_memory.h"
#include "storage/base/unique_fd.h"

namespace engram {

// Memory that direct I/O accepts. Grows, never shrinks. One thread at a time.
class AlignedBuffer {
 public:
  // Offsets, lengths and addresses of direct reads are multiples of this.
  static constexpr size_t kAlignment = kDirectAlignment;

  // At least `bytes` of memory; what the buffer held before may be lost.
  std::byte* Reserve(size_t bytes);
  size_t capacity() const { return capacity_; }

 private:
  DirectMemory data_;
  size_t capacity_ = 0;
};

class FileReader {
 public:
  struct Options {
    bool direct = true;  // false: do not even try O_DIRECT
    // What stands for pread(2); a test puts a faulty one here, and then no read goes another way.
    std::function<ssize_t(int fd, void* data, size_t bytes, off_t offset)> pread;
    // What a read through io_uring is taken to have answered, given what it did answer (bytes, or a
    // negated errno); a test puts faults here.
    std::function<int32_t(uint64_t offset, absl::Span<std::byte> data, int32_t result)> ring_read;
  };

  // NotFound: no such file. PermissionDenied: it may not be read. InvalidArgument: it is not a
  // regular file. Unavailable: anything else that the system reports. All name `path`.
  static absl::StatusOr<std::unique_ptr<FileReader>> Open(const std::string& path, Options options);
  static absl::StatusOr<std::unique_ptr<FileReader>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }       // when it was opened
  int64_t mtime_ns() const { return mtime_ns_; }  // likewise; nanoseconds since 1970
  bool direct() const { return direct_.load(std::memory_order_relaxed); }

  // Whether the file is as it was at Open. FailedPrecondition, naming it: it has been written to
  // since, so what was read may be partly the one and partly the other. Unavailable: cannot be
  // told. A file that was replaced as a whole is still read as it was, and counts as unchanged.
  absl::Status CheckUnchanged() const;

  // For ReadAhead, which reads through io_uring: the descriptor of direct reads, −1 where there are
  // none; what a read is taken to have answered; an error as Read returns it; whether a file system
  // says by this errno that it cannot read directly.
  int ring_fd() const { return rings_ && direct() ? direct_fd_.get() : -1; }
  int32_t RingResult(uint64_t offset, absl::Span<std::byte> data, int32_t result) const {
    return options_.ring_read ? options_.ring_read(offset, data, result) : result;
  }
  absl::Status Failed(int error, uint64_t offset) const;
  static bool RefusesDirect(int error);

  // Reads `length` bytes at `offset` in one go and returns them; they lie in `buffer` and live
  // until its next use. One large request is far cheaper than many small ones.
  // OutOfRange: beyond bytes(). DataLoss: the file has become shorter since Open. Unavailable:
  // the read failed, errno in the text. All name the file.
  absl::StatusOr<absl::Span<const std::byte>> Read(uint64_t offset, uint64_t length,
                                                   AlignedBuffer& buffer) const;

 private:
  FileReader(std::string path, Options options, bool rings);

  absl::Status OpenBuffered();
  absl::Status OpenDirect();
  absl::StatusOr<size_t> ReadDirect(uint64_t begin, absl::Span<std::byte> data,
                                    size_t needed) const;
  absl::Status ReadBuffered(uint64_t begin, absl::Span<std::byte> data) const;

  const std::string path_;
  const Options options_;
  const bool rings_;
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
