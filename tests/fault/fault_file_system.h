// FaultFileSystem: a file system between the store and the drive, at which a test watches each
// operation, makes it fail, or dies.
//
// The hook is called before each operation, from any thread; what it returns, unless OK, is what
// the operation answers. Batched and asynchronous reads ask it once for each request, when that is
// done. A file must outlive its reads, and the file system its files.
#ifndef ENGRAM_TESTS_FAULT_FAULT_FILE_SYSTEM_H_
#define ENGRAM_TESTS_FAULT_FAULT_FILE_SYSTEM_H_

#include <rocksdb/file_system.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace engram {

enum class FileOp { kRead, kCreate, kAppend, kSync, kClose, kLink, kRename, kDelete };

using FaultHook = std::function<rocksdb::IOStatus(FileOp op, const std::string& file,
                                                  uint64_t offset, size_t bytes)>;

// Called with each read that is done, from any thread: it may make it fail, shorten it, or change
// its bytes (which lie in `scratch`). FaultPlan is one.
using ReadSpoiler = std::function<void(const std::string& file, rocksdb::FSReadRequest& read)>;

class FaultReadFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  using IOStatus = rocksdb::IOStatus;
  using IOOptions = rocksdb::IOOptions;
  using Debug = rocksdb::IODebugContext;
  using Request = rocksdb::FSReadRequest;

  FaultReadFile(std::unique_ptr<rocksdb::FSRandomAccessFile> base, std::string name,
                const FaultHook& hook, const ReadSpoiler& spoiler)
      : FSRandomAccessFileOwnerWrapper(std::move(base)),
        name_(std::move(name)),
        hook_(hook),
        spoiler_(spoiler) {}

  IOStatus Read(uint64_t offset, size_t bytes, const IOOptions& options, rocksdb::Slice* result,
                char* scratch, Debug* debug) const override {
    IOStatus status = hook_(FileOp::kRead, name_, offset, bytes);
    if (!status.ok()) return status;
    Request read;
    read.offset = offset;
    read.len = bytes;
    read.scratch = scratch;
    read.status =
        FSRandomAccessFileOwnerWrapper::Read(offset, bytes, options, &read.result, scratch, debug);
    if (spoiler_) spoiler_(name_, read);
    *result = read.result;
    return read.status;
  }

  IOStatus MultiRead(Request* requests, size_t count, const IOOptions& options,
                     Debug* debug) override {
    IOStatus status = FSRandomAccessFileOwnerWrapper::MultiRead(requests, count, options, debug);
    for (size_t i = 0; i < count; ++i) Spoil(requests[i]);
    return status;
  }

  // What the callback is given is spoiled; the caller's own request may not be.
  IOStatus ReadAsync(Request& request, const IOOptions& options,
                     std::function<void(const Request&, void*)> done, void* argument, void** handle,
                     rocksdb::IOHandleDeleter* deleter, Debug* debug) override {
    return FSRandomAccessFileOwnerWrapper::ReadAsync(
        request, options,
        [this, done = std::move(done)](const Request& read, void* of) {
          Request spoiled;
          spoiled.offset = read.offset;
          spoiled.len = read.len;
          spoiled.scratch = read.scratch;
          spoiled.result = read.result;
          spoiled.status = read.status;
          Spoil(spoiled);
          done(spoiled, of);
        },
        argument, handle, deleter, debug);
  }

 private:
  void Spoil(Request& read) const {
    IOStatus fault = hook_(FileOp::kRead, name_, read.offset, read.len);
    if (!fault.ok()) {
      read.result = rocksdb::Slice();
      read.status = std::move(fault);
    } else if (spoiler_) {
      spoiler_(name_, read);
    }
  }

  const std::string name_;
  const FaultHook& hook_;
  const ReadSpoiler& spoiler_;
};

class FaultWriteFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  using IOStatus = rocksdb::IOStatus;
  using IOOptions = rocksdb::IOOptions;
  using Debug = rocksdb::IODebugContext;

  FaultWriteFile(std::unique_ptr<rocksdb::FSWritableFile> base, std::string name,
                 const FaultHook& hook)
      : FSWritableFileOwnerWrapper(std::move(base)), name_(std::move(name)), hook_(hook) {}

  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options, Debug* debug) override {
    IOStatus status = hook_(FileOp::kAppend, name_, 0, data.size());
    return status.ok() ? FSWritableFileOwnerWrapper::Append(data, options, debug) : status;
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& info, Debug* debug) override {
    IOStatus status = hook_(FileOp::kAppend, name_, 0, data.size());
    return status.ok() ? FSWritableFileOwnerWrapper::Append(data, options, info, debug) : status;
  }
  IOStatus PositionedAppend(const rocksdb::Slice& data, uint64_t offset, const IOOptions& options,
                            Debug* debug) override {
    IOStatus status = hook_(FileOp::kAppend, name_, offset, data.size());
    return status.ok() ? FSWritableFileOwnerWrapper::PositionedAppend(data, offset, options, debug)
                       : status;
  }
  IOStatus PositionedAppend(const rocksdb::Slice& data, uint64_t offset, const IOOptions& options,
                            const rocksdb::DataVerificationInfo& info, Debug* debug) override {
    IOStatus status = hook_(FileOp::kAppend, name_, offset, data.size());
    return status.ok()
               ? FSWritableFileOwnerWrapper::PositionedAppend(data, offset, options, info, debug)
               : status;
  }
  IOStatus Sync(const IOOptions& options, Debug* debug) override {
    IOStatus status = hook_(FileOp::kSync, name_, 0, 0);
    return status.ok() ? FSWritableFileOwnerWrapper::Sync(options, debug) : status;
  }
  IOStatus Fsync(const IOOptions& options, Debug* debug) override {
    IOStatus status = hook_(FileOp::kSync, name_, 0, 0);
    return status.ok() ? FSWritableFileOwnerWrapper::Fsync(options, debug) : status;
  }
  IOStatus Close(const IOOptions& options, Debug* debug) override {
    IOStatus status = hook_(FileOp::kClose, name_, 0, 0);
    return status.ok() ? FSWritableFileOwnerWrapper::Close(options, debug) : status;
  }

 private:
  const std::string name_;
  const FaultHook& hook_;
};

class FaultFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  using IOStatus = rocksdb::IOStatus;
  using IOOptions = rocksdb::IOOptions;
  using Debug = rocksdb::IODebugContext;

  // `room`, if given, says how much is free on the drive. Poll and AbortIO go through to `base`.
  FaultFileSystem(std::shared_ptr<rocksdb::FileSystem> base, FaultHook hook,
                  ReadSpoiler spoiler = nullptr, std::function<uint64_t()> room = nullptr)
      : FileSystemWrapper(std::move(base)),
        hook_(std::move(hook)),
        spoiler_(std::move(spoiler)),
        room_(std::move(room)) {}

  static const char* kClassName() { return "EngramFaultFileSystem"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                               Debug* debug) override {
    std::unique_ptr<rocksdb::FSRandomAccessFile> base;
    IOStatus status = target()->NewRandomAccessFile(name, options, &base, debug);
    if (status.ok())
      *result = std::make_unique<FaultReadFile>(std::move(base), name, hook_, spoiler_);
    return status;
  }
  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* result,
                           Debug* debug) override {
    IOStatus status = hook_(FileOp::kCreate, name, 0, 0);
    if (!status.ok()) return status;
    std::unique_ptr<rocksdb::FSWritableFile> base;
    status = target()->NewWritableFile(name, options, &base, debug);
    if (status.ok()) *result = std::make_unique<FaultWriteFile>(std::move(base), name, hook_);
    return status;
  }
  IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                              std::unique_ptr<rocksdb::FSWritableFile>* result,
                              Debug* debug) override {
    std::unique_ptr<rocksdb::FSWritableFile> base;
    IOStatus status = target()->ReopenWritableFile(name, options, &base, debug);
    if (status.ok()) *result = std::make_unique<FaultWriteFile>(std::move(base), name, hook_);
    return status;
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    Debug* debug) override {
    IOStatus status = hook_(FileOp::kLink, from, 0, 0);
    return status.ok() ? target()->LinkFile(from, to, options, debug) : status;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      Debug* debug) override {
    IOStatus status = hook_(FileOp::kRename, from, 0, 0);
    return status.ok() ? target()->RenameFile(from, to, options, debug) : status;
  }
  IOStatus DeleteFile(const std::string& name, const IOOptions& options, Debug* debug) override {
    IOStatus status = hook_(FileOp::kDelete, name, 0, 0);
    return status.ok() ? target()->DeleteFile(name, options, debug) : status;
  }
  IOStatus GetFreeSpace(const std::string& path, const IOOptions& options, uint64_t* bytes,
                        Debug* debug) override {
    if (!room_) return target()->GetFreeSpace(path, options, bytes, debug);
    *bytes = room_();
    return IOStatus::OK();
  }

 private:
  const FaultHook hook_;
  const ReadSpoiler spoiler_;
  const std::function<uint64_t()> room_;
};

}  // namespace engram

#endif  // ENGRAM_TESTS_FAULT_FAULT_FILE_SYSTEM_H_
