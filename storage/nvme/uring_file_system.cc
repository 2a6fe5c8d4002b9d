#include "storage/nvme/uring_file_system.h"

#include <fcntl.h>
#include <rocksdb/file_system.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/io_ring.h"
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

using ReadCallback = std::function<void(const FSReadRequest&, void*)>;

IOStatus ReadError(const std::string& file, uint64_t offset, int error) {
  return IOStatus::IOError(
      absl::StrCat("while reading through io_uring at offset ", offset, " of ", file),
      std::strerror(error));
}

class UringFile;

// One asynchronous read: what RocksDB calls its io_handle.
struct AsyncRead {
  const UringFile* file = nullptr;
  FSReadRequest request;
  ReadCallback callback;
  void* argument = nullptr;
  size_t done = 0;         // bytes that have come
  bool under_way = false;  // the ring has it
  bool aborted = false;
};

// One thread's reads.
class ThreadReads {
 public:
  // Queues `read`, or does it at once where there is no ring.
  void Start(AsyncRead& read);
  // Sends what is queued, and waits until `count` more of the thread's reads are done. False: none
  // is under way.
  bool Wait(unsigned count);

 private:
  void Queue(AsyncRead& read);
  void GoOn(AsyncRead& read);
  void Answer(AsyncRead& read, int32_t result);

  IoRing ring_{kMaxReadsInFlight};
  bool warned_ = false;
  bool answering_ = false;  // inside a callback, where the ring must not be waited for
};

ThreadReads& Reads() {
  static thread_local ThreadReads reads;
  return reads;
}

class UringFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  UringFile(std::unique_ptr<FSRandomAccessFile> base, std::string name, UniqueFd fd,
            UringCounters* counters)
      : FSRandomAccessFileOwnerWrapper(std::move(base)),
        name_(std::move(name)),
        fd_(std::move(fd)),
        alignment_(use_direct_io() ? GetRequiredBufferAlignment() : 1),
        counters_(counters) {}

  IOStatus ReadAsync(FSReadRequest& request, const IOOptions&, ReadCallback callback,
                     void* argument, void** io_handle, rocksdb::IOHandleDeleter* deleter,
                     IODebugContext*) override {
    const auto address = reinterpret_cast<uintptr_t>(request.scratch);
    if ((request.offset | request.len | address) % alignment_ != 0) {
      return IOStatus::InvalidArgument("a direct read that is not aligned, of " + name_);
    }
    auto read = std::make_unique<AsyncRead>();
    read->file = this;
    read->request.offset = request.offset;
    read->request.len = request.len;
    read->request.scratch = request.scratch;
    read->callback = std::move(callback);
    read->argument = argument;
    *deleter = [](void* handle) { delete static_cast<AsyncRead*>(handle); };
    // Whatever is thrown from here on, the caller has the handle, and it is safe to abort. Making
    // the thread's ring may throw, so that comes before.
    ThreadReads* const reads = use_ring() ? &Reads() : nullptr;
    AsyncRead& started = *read.release();
    *io_handle = &started;
    if (reads != nullptr) {
      reads->Start(started);
    } else {
      ReadNow(started);
    }
    return IOStatus::OK();
  }

  bool use_ring() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  size_t alignment() const { return alignment_; }
  const std::string& name() const { return name_; }

  // Does the rest of the read without a ring, and answers it.
  void ReadNow(AsyncRead& read) const {
    FSReadRequest& request = read.request;
    Slice rest;
    request.status = FSRandomAccessFileOwnerWrapper::Read(
        request.offset + read.done, request.len - read.done, IOOptions(), &rest,
        request.scratch + read.done, nullptr);
    if (request.status.ok()) {
      // A base that has the bytes elsewhere (mmap) need not have copied them.
      if (rest.data() != request.scratch + read.done) {
        std::memmove(request.scratch + read.done, rest.data(), rest.size());
      }
      request.result = Slice(request.scratch, read.done + rest.size());
    }
    Finish(read, /*by_ring=*/false);
  }

  void Finish(AsyncRead& read, bool by_ring) const {
    Count(by_ring);
    if (!read.aborted) read.callback(read.request, read.argument);
  }

 private:
  void Count(bool by_ring) const {
    if (counters_ == nullptr || !use_ring()) return;
    std::atomic<uint64_t>& counter = by_ring ? counters_->ring_reads : counters_->fallback_reads;
    counter.fetch_add(1, std::memory_order_relaxed);
  }

  const std::string name_;
  const UniqueFd fd_;
  const size_t alignment_;
  UringCounters* const counters_;
};

void ThreadReads::Start(AsyncRead& read) {
  const bool full = ring_.status().ok() && ring_.in_flight() == ring_.depth();
  if (full && !answering_) Wait(1);
  if (ring_.status().ok() && ring_.in_flight() < ring_.depth()) {
    Queue(read);
    return;
  }
  if (!ring_.status().ok() && !warned_) {
    warned_ = true;
    ENGRAM_LOG(kWarning) << "io_uring is not to be had on one thread (" << ring_.status().message()
                         << "); it reads with pread from now on";
  }
  read.file->ReadNow(read);
}

void ThreadReads::Queue(AsyncRead& read) {
  read.under_way = true;
  ring_.Read(read.file->fd(), read.request.scratch + read.done,
             static_cast<uint32_t>(read.request.len - read.done), read.request.offset + read.done,
             reinterpret_cast<uintptr_t>(&read));
}

// Asks for the rest of a read. A ring that has broken waits for what the kernel had taken before,
// and for ever were anything queued in it meanwhile.
void ThreadReads::GoOn(AsyncRead& read) {
  if (ring_.status().ok()) {
    Queue(read);
  } else {
    read.file->ReadNow(read);
  }
}

void ThreadReads::Answer(AsyncRead& read, int32_t result) {
  read.under_way = false;
  FSReadRequest& request = read.request;
  if (result < 0 && !ring_.status().ok()) {
    read.file->ReadNow(read);
    return;
  }
  if (result == -EINTR || result == -EAGAIN) {
    GoOn(read);
    return;
  }
  if (result < 0) {
    request.status = ReadError(read.file->name(), request.offset + read.done, -result);
    read.file->Finish(read, /*by_ring=*/true);
    return;
  }
  read.done += static_cast<size_t>(result);
  // A direct read that ends off the alignment has met the end of the file.
  const bool end_of_file = result == 0 || read.done % read.file->alignment() != 0;
  if (read.done < request.len && !end_of_file) {
    GoOn(read);
    return;
  }
  request.result = Slice(request.scratch, read.done);
  read.file->Finish(read, /*by_ring=*/true);
}

bool ThreadReads::Wait(unsigned count) {
  if (ring_.in_flight() == 0) return false;
  answering_ = true;
  const absl::Cleanup answered = [this] { answering_ = false; };
  ring_.Wait(count, [this](uint64_t tag, int32_t result) {
    Answer(*reinterpret_cast<AsyncRead*>(static_cast<uintptr_t>(tag)), result);
  });
  return true;
}

// Waits until the ring has done with `wanted` of these reads; 0 only sends them.
IOStatus WaitFor(const std::vector<void*>& handles, size_t wanted) {
  if (wanted == 0) Reads().Wait(0);
  for (;;) {
    size_t finished = 0;
    for (size_t i = 0; i < handles.size() && finished < wanted; ++i) {
      // Null: the base has done that read at once.
      const auto* read = static_cast<const AsyncRead*>(handles[i]);
      finished += read == nullptr || !read->under_way;
    }
    if (finished >= wanted) return IOStatus::OK();
    if (!Reads().Wait(1)) {
      return IOStatus::InvalidArgument("asked after reads that another thread has started");
    }
  }
}

class UringFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  UringFileSystem(std::shared_ptr<FileSystem> base, bool use_ring, UringCounters* counters)
      : FileSystemWrapper(std::move(base)), use_ring_(use_ring), counters_(counters) {}

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
    UniqueFd fd;
    if (use_ring_) {
      // The base keeps its descriptor to itself, so the ring has one of its own.
      const int flags = O_RDONLY | O_CLOEXEC | (base->use_direct_io() ? O_DIRECT : 0);
      fd = UniqueFd(::open(name.c_str(), flags));
      if (!fd.valid()) return IOStatus::IOError("while opening " + name, std::strerror(errno));
    }
    *result = std::make_unique<UringFile>(std::move(base), name, std::move(fd), counters_);
    return IOStatus::OK();
  }

  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           IODebugContext* debug) override {
    if (!use_ring_) return target()->NewWritableFile(name, options, result, debug);
    return NewBulkFile(*target(), name, options, result, debug);
  }

  IOStatus Poll(std::vector<void*>& handles, size_t min_completions) override {
    return WaitFor(handles, std::min(min_completions, handles.size()));
  }

  IOStatus AbortIO(std::vector<void*>& handles) override {
    for (void* const handle : handles) {
      if (handle != nullptr) static_cast<AsyncRead*>(handle)->aborted = true;
    }
    // The kernel may still write into their buffers.
    return WaitFor(handles, handles.size());
  }

 private:
  const bool use_ring_;
  UringCounters* const counters_;
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> NewUringFileSystem(std::shared_ptr<rocksdb::FileSystem> base,
                                                        bool use_ring, UringCounters* counters) {
  return std::make_shared<UringFileSystem>(std::move(base), use_ring, counters);
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
