#include "storage/nvme/uring_file_system.h"

#include <fcntl.h>
#include <liburing.h>
#include <rocksdb/file_system.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/unique_fd.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/uring_writable_file.h"

namespace engram {
namespace {

using rocksdb::FSRandomAccessFile;
using rocksdb::FSReadRequest;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

constexpr unsigned kRingDepth = 64;

rocksdb::IOStatus ReadError(const std::string& file, uint64_t offset, int error) {
  return IOStatus::IOError(
      absl::StrCat("while reading through io_uring at offset ", offset, " of ", file),
      std::strerror(error));
}

// One thread's ring. Between calls of ReadAll nothing is in flight.
class Ring {
 public:
  Ring() : error_(-io_uring_queue_init(kRingDepth, &ring_, 0)) {}
  ~Ring() {
    if (error_ == 0) io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // 0, or the errno that made the ring unusable.
  int error() const { return error_; }

  // Fills result and status of the first of `reqs` that it can handle and returns their number;
  // fewer than `count` only when the ring broke, and then nothing is in flight any more.
  size_t ReadAll(int fd, const std::string& file, size_t alignment, FSReadRequest* reqs,
                 size_t count);

 private:
  struct Progress {
    size_t done = 0;  // bytes of the request that have come
    bool finished = false;
  };

  // Queues the rest of request `slot`.
  void Prepare(int fd, FSReadRequest& req, const Progress& progress, size_t slot);
  // Takes in one completion. Returns true when its request is finished.
  bool Complete(const io_uring_cqe& cqe, const std::string& file, size_t alignment,
                FSReadRequest& req, Progress& progress);
  // Submits what is queued and waits for one completion at least. 0 or an errno.
  int SubmitAndWait(unsigned& queued, unsigned& in_flight);
  size_t ReadWindow(int fd, const std::string& file, size_t alignment, FSReadRequest* reqs,
                    size_t count);
  void Break(int error, unsigned in_flight);

  io_uring ring_{};
  int error_;
};

void Ring::Prepare(int fd, FSReadRequest& req, const Progress& progress, size_t slot) {
  // Never null: at most kRingDepth requests are queued or in flight.
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  io_uring_prep_read(sqe, fd, req.scratch + progress.done,
                     static_cast<unsigned>(req.len - progress.done), req.offset + progress.done);
  io_uring_sqe_set_data64(sqe, slot);
}

bool Ring::Complete(const io_uring_cqe& cqe, const std::string& file, size_t alignment,
                    FSReadRequest& req, Progress& progress) {
  if (cqe.res == -EINTR || cqe.res == -EAGAIN) return false;
  if (cqe.res < 0) {
    req.result = Slice();
    req.status = ReadError(file, req.offset + progress.done, -cqe.res);
    return true;
  }
  progress.done += static_cast<size_t>(cqe.res);
  // A direct read that ends off the alignment has met the end of the file.
  const bool end_of_file = cqe.res == 0 || (alignment > 1 && progress.done % alignment != 0);
  if (progress.done < req.len && !end_of_file) return false;
  req.result = Slice(req.scratch, progress.done);
  req.status = IOStatus::OK();
  return true;
}

int Ring::SubmitAndWait(unsigned& queued, unsigned& in_flight) {
  for (;;) {
    const int submitted = io_uring_submit_and_wait(&ring_, 1);
    if (submitted >= 0) {
      queued -= static_cast<unsigned>(submitted);
      in_flight += static_cast<unsigned>(submitted);
      return 0;
    }
    if (submitted == -EINTR) continue;
    // Short of kernel memory: completions of what is in flight make room.
    if ((submitted == -EAGAIN || submitted == -EBUSY) && in_flight > 0) {
      io_uring_cqe* cqe = nullptr;
      const int waited = io_uring_wait_cqe(&ring_, &cqe);
      if (waited == 0 || waited == -EINTR) return 0;
    }
    return -submitted;
  }
}

void Ring::Break(int error, unsigned in_flight) {
  // The kernel still writes into the caller's buffers: wait for it before giving the ring up.
  while (in_flight > 0) {
    io_uring_cqe* cqe = nullptr;
    if (io_uring_wait_cqe(&ring_, &cqe) != 0) continue;
    io_uring_cqe_seen(&ring_, cqe);
    --in_flight;
  }
  io_uring_queue_exit(&ring_);
  error_ = error;
  ENGRAM_LOG(kWarning) << "io_uring broke on one thread (" << std::strerror(error)
                       << "); it reads with pread from now on";
}

size_t Ring::ReadWindow(int fd, const std::string& file, size_t alignment, FSReadRequest* reqs,
                        size_t count) {
  std::array<Progress, kRingDepth> progress{};
  unsigned queued = 0;
  unsigned in_flight = 0;
  size_t open = count;
  for (size_t slot = 0; slot < count; ++slot, ++queued) {
    Prepare(fd, reqs[slot], progress[slot], slot);
  }
  while (open > 0) {
    if (const int error = SubmitAndWait(queued, in_flight); error != 0) {
      Break(error, in_flight);
      return 0;  // the whole window is read again by the caller
    }
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      const size_t slot = io_uring_cqe_get_data64(cqe);
      const bool finished = Complete(*cqe, file, alignment, reqs[slot], progress[slot]);
      io_uring_cqe_seen(&ring_, cqe);
      --in_flight;
      if (finished) {
        --open;
      } else {
        Prepare(fd, reqs[slot], progress[slot], slot);
        ++queued;
      }
    }
  }
  return count;
}

size_t Ring::ReadAll(int fd, const std::string& file, size_t alignment, FSReadRequest* reqs,
                     size_t count) {
  size_t done = 0;
  while (done < count) {
    const size_t window = std::min<size_t>(count - done, kRingDepth);
    if (ReadWindow(fd, file, alignment, reqs + done, window) == 0) break;
    done += window;
  }
  return done;
}

Ring& ThreadRing() {
  static thread_local Ring ring;
  return ring;
}

class UringFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  UringFile(std::unique_ptr<FSRandomAccessFile> base, std::string name, UniqueFd fd,
            UringCounters* counters)
      : FSRandomAccessFileOwnerWrapper(std::move(base)),
        name_(std::move(name)),
        fd_(std::move(fd)),
        counters_(counters) {}

  IOStatus MultiRead(FSReadRequest* reqs, size_t count, const IOOptions& options,
                     IODebugContext* debug) override {
    const size_t alignment = use_direct_io() ? GetRequiredBufferAlignment() : 1;
    if (!Aligned(reqs, count, alignment)) {
      // RocksDB has aligned them all; its own file would not take them either.
      return IOStatus::InvalidArgument("direct reads that are not aligned, of " + name_);
    }
    size_t done = 0;
    Ring& ring = ThreadRing();
    if (ring.error() == 0) done = ring.ReadAll(fd_.get(), name_, alignment, reqs, count);
    if (counters_ != nullptr) {
      counters_->ring_reads.fetch_add(done, std::memory_order_relaxed);
      counters_->fallback_reads.fetch_add(count - done, std::memory_order_relaxed);
    }
    if (done == count) return IOStatus::OK();
    return FSRandomAccessFileOwnerWrapper::MultiRead(reqs + done, count - done, options, debug);
  }

 private:
  static bool Aligned(const FSReadRequest* reqs, size_t count, size_t alignment) {
    if (alignment <= 1) return true;
    for (size_t i = 0; i < count; ++i) {
      const auto address = reinterpret_cast<uintptr_t>(reqs[i].scratch);
      if ((reqs[i].offset | reqs[i].len | address) % alignment != 0) return false;
    }
    return true;
  }

  const std::string name_;
  const UniqueFd fd_;
  UringCounters* const counters_;
};

class UringFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  UringFileSystem(std::shared_ptr<FileSystem> base, UringCounters* counters)
      : FileSystemWrapper(std::move(base)), counters_(counters) {}

  static const char* kClassName() { return "EngramUringFileSystem"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                               std::unique_ptr<FSRandomAccessFile>* result,
                               IODebugContext* debug) override {
    std::unique_ptr<FSRandomAccessFile> base;
    IOStatus status = target()->NewRandomAccessFile(name, options, &base, debug);
    if (!status.ok() || !absl::EndsWith(name, ".sst") || options.use_mmap_reads) {
      *result = std::move(base);
      return status;
    }
    // The base keeps its descriptor to itself, so the ring has one of its own.
    const int flags = O_RDONLY | O_CLOEXEC | (base->use_direct_io() ? O_DIRECT : 0);
    UniqueFd fd(::open(name.c_str(), flags));
    if (!fd.valid()) return IOStatus::IOError("while opening " + name, std::strerror(errno));
    *result = std::make_unique<UringFile>(std::move(base), name, std::move(fd), counters_);
    return IOStatus::OK();
  }

  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* debug) override {
    return NewBulkFile(*target(), name, options, result, debug);
  }

 private:
  UringCounters* const counters_;
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> NewUringFileSystem(std::shared_ptr<rocksdb::FileSystem> base,
                                                        UringCounters* counters) {
  return std::make_shared<UringFileSystem>(std::move(base), counters);
}

absl::Status ProbeDirectIo(const std::string& directory) {
  constexpr size_t kBytes = 4096;
  const std::string name = absl::StrCat(directory, "/.direct-io-probe");
  const int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT;
  const UniqueFd fd(::open(name.c_str(), flags, 0600));
  const int open_error = errno;
  // Some file systems make the file and refuse the flag only afterwards.
  ::unlink(name.c_str());
  if (!fd.valid()) return absl::UnavailableError(std::strerror(open_error));
  void* memory = nullptr;
  if (::posix_memalign(&memory, kBytes, kBytes) != 0) {
    return absl::ResourceExhaustedError("no memory for a 4 KiB buffer");
  }
  const std::unique_ptr<void, decltype(&::free)> buffer(memory, &::free);
  std::memset(buffer.get(), 0, kBytes);
  if (::pwrite(fd.get(), buffer.get(), kBytes, 0) != static_cast<ssize_t>(kBytes)) {
    if (errno == ENOSPC || errno == EDQUOT) return FromErrno(errno, "writing " + name);
    return absl::UnavailableError(std::strerror(errno));
  }
  if (::pread(fd.get(), buffer.get(), kBytes, 0) != static_cast<ssize_t>(kBytes)) {
    return absl::UnavailableError(std::strerror(errno));
  }
  return absl::OkStatus();
}

}  // namespace engram
