#include "storage/nvme/uring_writable_file.h"

#include <fcntl.h>
#include <rocksdb/file_system.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/direct_memory.h"
#include "storage/base/io_ring.h"
#include "storage/base/log.h"
#include "storage/base/unique_fd.h"

namespace engram {
namespace {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

constexpr size_t kBufferBytes = UringWriteOptions::kBufferBytes;
constexpr size_t kBuffers = UringWriteOptions::kBuffers;
constexpr size_t kBlock = kDirectAlignment;
constexpr mode_t kMode = 0644;  // as RocksDB makes its files

uint64_t AlignDown(uint64_t value) { return value / kBlock * kBlock; }
uint64_t AlignUp(uint64_t value) { return AlignDown(value + kBlock - 1); }

IOStatus ErrorOf(int error, const std::string& what) {
  if (error == ENOSPC || error == EDQUOT) return IOStatus::NoSpace(what, std::strerror(error));
  return IOStatus::IOError(what, std::strerror(error));
}

thread_local uint64_t expected_file_bytes = 0;

class UringWritableFile final : public rocksdb::FSWritableFile {
 public:
  UringWritableFile(std::string name, UniqueFd fd, UringWriteOptions options)
      : name_(std::move(name)),
        fd_(std::move(fd)),
        options_(std::move(options)),
        memory_(AllocateDirect(kBuffers * kBufferBytes)),
        ring_(kBuffers) {
    for (size_t i = 0; i < kBuffers; ++i) {
      buffers_[i].data = reinterpret_cast<char*>(memory_.get()) + i * kBufferBytes;
      free_.push_back(i);
    }
    if (!ring_.status().ok()) {
      ENGRAM_LOG(kWarning) << name_
                           << " is written with pwrite: io_uring: " << ring_.status().message();
    }
  }
  ~UringWritableFile() override { WaitForAll(); }

  void TakeSpace();

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override;
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Truncate(uint64_t size, const IOOptions&, IODebugContext*) override {
    return size == size_ ? status_ : IOStatus::NotSupported("cutting short " + name_);
  }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return status_; }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return SyncBy(::fdatasync); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return SyncBy(::fsync); }
  IOStatus Close(const IOOptions&, IODebugContext*) override;
  IOStatus InvalidateCache(size_t, size_t) override { return IOStatus::OK(); }  // nothing is there
  IOStatus RangeSync(uint64_t, uint64_t, const IOOptions&, IODebugContext*) override {
    return status_;
  }
  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override { return size_; }
  size_t GetRequiredBufferAlignment() const override { return 1; }

 private:
  struct Buffer {
    char* data = nullptr;
    uint64_t offset = 0;  // in the file
    size_t filled = 0;
    size_t to_write = 0;  // filled, in whole blocks
    size_t written = 0;
  };

  void Write(size_t slot);
  void Queue(size_t slot);
  void Answer(size_t slot, int32_t result);
  bool Advance(size_t slot, int32_t result);
  void WriteRest(size_t slot);
  void Wait(unsigned count) {
    ring_.Wait(count, [this](uint64_t slot, int32_t result) { Answer(slot, result); });
  }
  void WaitForAll() {
    while (ring_.in_flight() > 0) Wait(ring_.in_flight());
  }
  void TakeBuffer();
  void WriteOut();
  IOStatus SyncBy(int (*sync)(int));
  void Fail(int error, const std::string& what) {
    if (status_.ok()) status_ = ErrorOf(error, what);
  }

  const std::string name_;
  UniqueFd fd_;
  const UringWriteOptions options_;
  IOStatus status_;  // the first error
  uint64_t size_ = 0;
  uint64_t length_ = 0;  // of the file as the file system has it, at least
  DirectMemory memory_;
  std::array<Buffer, kBuffers> buffers_;
  std::vector<size_t> free_;
  size_t current_ = kBuffers;  // being filled; kBuffers: none
  bool dirty_ = false;         // current_ has bytes that were not written
  IoRing ring_;                // last: goes first, before the memory that it writes from
};

// Without the space the writes make the file longer themselves, one at a time.
void UringWritableFile::TakeSpace() {
  if (options_.expected_bytes == 0) return;
  const uint64_t bytes = AlignUp(options_.expected_bytes);
  int result = 0;
  do {
    result = ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0) {
    length_ = bytes;
  } else if (::ftruncate(fd_.get(), 0) != 0) {  // of a part that there was room for
    Fail(errno, "while emptying " + name_);
  }
}

IOStatus UringWritableFile::Append(const Slice& data, const IOOptions&, IODebugContext*) {
  const char* from = data.data();
  size_t left = data.size();
  while (left > 0 && status_.ok()) {
    if (current_ == kBuffers) TakeBuffer();
    if (!status_.ok()) break;
    Buffer& buffer = buffers_[current_];
    const size_t here = std::min(left, kBufferBytes - buffer.filled);
    std::memcpy(buffer.data + buffer.filled, from, here);
    buffer.filled += here;
    size_ += here;
    from += here;
    left -= here;
    dirty_ = true;
    if (buffer.filled < kBufferBytes) continue;
    Write(std::exchange(current_, kBuffers));
    dirty_ = false;
  }
  return status_;
}

void UringWritableFile::TakeBuffer() {
  while (free_.empty() && status_.ok()) Wait(1);
  if (free_.empty()) return;
  current_ = free_.back();
  free_.pop_back();
  buffers_[current_].offset = size_;
  buffers_[current_].filled = 0;
}

// The buffer is the drive's until Answer gives it back.
void UringWritableFile::Write(size_t slot) {
  Buffer& buffer = buffers_[slot];
  buffer.written = 0;
  buffer.to_write = AlignUp(buffer.filled);
  length_ = std::max(length_, buffer.offset + buffer.to_write);
  if (!ring_.status().ok()) {
    WriteRest(slot);
    free_.push_back(slot);
    return;
  }
  Queue(slot);
  Wait(0);
}

void UringWritableFile::Queue(size_t slot) {
  const Buffer& buffer = buffers_[slot];
  ring_.Write(fd_.get(), buffer.data + buffer.written,
              static_cast<uint32_t>(buffer.to_write - buffer.written),
              buffer.offset + buffer.written, slot);
}

// Takes in what one write did. False when it failed.
bool UringWritableFile::Advance(size_t slot, int32_t result) {
  Buffer& buffer = buffers_[slot];
  const uint64_t at = buffer.offset + buffer.written;
  if (options_.on_write) result = options_.on_write(at, buffer.to_write - buffer.written, result);
  if (result == -EINTR || result == -EAGAIN) return true;
  // Half a block, or nothing, is as bad as an error: it cannot be carried on from.
  const bool whole_blocks = result > 0 && static_cast<size_t>(result) % kBlock == 0;
  if (whole_blocks) {
    buffer.written += static_cast<size_t>(result);
    return true;
  }
  Fail(result < 0 ? -result : EIO, absl::StrCat("while writing ", buffer.to_write - buffer.written,
                                                " bytes at offset ", at, " of ", name_));
  return false;
}

void UringWritableFile::Answer(size_t slot, int32_t result) {
  // A ring that broke answers with its own errno what it never took; that write is done here.
  if (!ring_.status().ok() && result < 0) result = -EINTR;
  const Buffer& buffer = buffers_[slot];
  const bool more = Advance(slot, result) && buffer.written < buffer.to_write;
  if (more && status_.ok()) {
    if (ring_.status().ok()) {
      Queue(slot);
      return;
    }
    WriteRest(slot);
  }
  free_.push_back(slot);
}

void UringWritableFile::WriteRest(size_t slot) {
  const Buffer& buffer = buffers_[slot];
  while (status_.ok() && buffer.written < buffer.to_write) {
    const ssize_t result =
        ::pwrite(fd_.get(), buffer.data + buffer.written, buffer.to_write - buffer.written,
                 static_cast<off_t>(buffer.offset + buffer.written));
    Advance(slot, result < 0 ? -errno : static_cast<int32_t>(result));
  }
}

// All bytes on their way to the drive have arrived, or there is an error. The tail that fills no
// block stays, to be written again with what follows it.
void UringWritableFile::WriteOut() {
  if (dirty_ && status_.ok()) {
    Buffer& buffer = buffers_[current_];
    std::memset(buffer.data + buffer.filled, 0, AlignUp(buffer.filled) - buffer.filled);
    const size_t slot = std::exchange(current_, kBuffers);
    Write(slot);
    WaitForAll();
    if (!status_.ok()) return;
    const size_t whole = AlignDown(buffer.filled);
    if (whole < buffer.filled) {
      free_.erase(std::find(free_.begin(), free_.end(), slot));
      current_ = slot;
      buffer.offset += whole;
      buffer.filled -= whole;
      std::memmove(buffer.data, buffer.data + whole, buffer.filled);
    }
    dirty_ = false;
  }
  WaitForAll();
  if (!status_.ok() || length_ == size_) return;
  if (::ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0) {
    Fail(errno, absl::StrCat("while cutting ", name_, " to ", size_, " bytes"));
  }
  length_ = size_;
}

IOStatus UringWritableFile::SyncBy(int (*sync)(int)) {
  WriteOut();
  if (!status_.ok()) return status_;
  int result = sync(fd_.get()) == 0 ? 0 : -errno;
  if (options_.on_sync) result = options_.on_sync(result);
  if (result != 0) Fail(-result, "while syncing " + name_);
  return status_;
}

IOStatus UringWritableFile::Close(const IOOptions&, IODebugContext*) {
  if (!fd_.valid()) return status_;
  WriteOut();
  WaitForAll();
  fd_.Reset();
  return status_;
}

}  // namespace

ExpectedFileBytes::ExpectedFileBytes(uint64_t bytes)
    : before_(std::exchange(expected_file_bytes, bytes)) {}
ExpectedFileBytes::~ExpectedFileBytes() { expected_file_bytes = before_; }
uint64_t ExpectedFileBytes::current() { return expected_file_bytes; }

rocksdb::IOStatus NewUringWritableFile(const std::string& name, UringWriteOptions options,
                                       std::unique_ptr<rocksdb::FSWritableFile>* result) {
  UniqueFd fd(::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT, kMode));
  if (!fd.valid()) {
    const int error = errno;
    if (error != EINVAL && error != EOPNOTSUPP) return ErrorOf(error, "while making " + name);
    ::unlink(name.c_str());  // some file systems make the file first
    return IOStatus::NotSupported("direct writes of " + name, std::strerror(error));
  }
  auto file = std::make_unique<UringWritableFile>(name, std::move(fd), std::move(options));
  file->TakeSpace();
  *result = std::move(file);
  return IOStatus::OK();
}

rocksdb::IOStatus NewBulkFile(rocksdb::FileSystem& base, const std::string& name,
                              const rocksdb::FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              rocksdb::IODebugContext* debug) {
  const uint64_t bytes = ExpectedFileBytes::current();
  if (bytes > 0 && options.use_direct_writes) {
    IOStatus status =
        NewUringWritableFile(name, {.expected_bytes = bytes, .on_write = nullptr}, result);
    if (!status.IsNotSupported()) return status;
  }
  return base.NewWritableFile(name, options, result, debug);
}

}  // namespace engram
