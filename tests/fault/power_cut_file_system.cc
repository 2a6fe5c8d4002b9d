#include "tests/fault/power_cut_file_system.h"

#include <string>
#include <utility>

namespace engram {
namespace {

using rocksdb::DataVerificationInfo;
using rocksdb::DirFsyncOptions;
using rocksdb::FSDirectory;
using rocksdb::FSRandomAccessFile;
using rocksdb::FSReadRequest;
using rocksdb::FSSequentialFile;
using rocksdb::FSWritableFile;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

class ReadFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  ReadFile(std::unique_ptr<FSRandomAccessFile> base, std::string name, PowerCutDisk* disk)
      : FSRandomAccessFileOwnerWrapper(std::move(base)), name_(std::move(name)), disk_(disk) {}

  IOStatus Read(uint64_t offset, size_t bytes, const IOOptions& options, Slice* result,
                char* scratch, IODebugContext* debug) const override {
    const IOStatus gone = disk_->Gone(name_);
    if (!gone.ok()) return gone;
    return FSRandomAccessFileOwnerWrapper::Read(offset, bytes, options, result, scratch, debug);
  }
  IOStatus MultiRead(FSReadRequest* requests, size_t count, const IOOptions& options,
                     IODebugContext* debug) override {
    const IOStatus gone = disk_->Gone(name_);
    if (!gone.ok()) return gone;
    return FSRandomAccessFileOwnerWrapper::MultiRead(requests, count, options, debug);
  }

 private:
  const std::string name_;
  PowerCutDisk* const disk_;
};

class WriteFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  WriteFile(std::unique_ptr<FSWritableFile> base, std::string name, PowerCutDisk::FileId id,
            PowerCutDisk* disk)
      : FSWritableFileOwnerWrapper(std::move(base)), name_(std::move(name)), id_(id), disk_(disk) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* debug) override {
    return disk_->Change("append", name_, [&] {
      IOStatus status = FSWritableFileOwnerWrapper::Append(data, options, debug);
      if (status.ok()) disk_->Appended(id_, data.size());
      return status;
    });
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset, const IOOptions& options,
                            IODebugContext* debug) override {
    return disk_->Change("append", name_, [&] {
      IOStatus status = FSWritableFileOwnerWrapper::PositionedAppend(data, offset, options, debug);
      if (status.ok()) disk_->Wrote(id_, offset, data.size());
      return status;
    });
  }
  IOStatus PositionedAppend(const Slice& data, uint64_t offset, const IOOptions& options,
                            const DataVerificationInfo&, IODebugContext* debug) override {
    return PositionedAppend(data, offset, options, debug);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options, IODebugContext* debug) override {
    return disk_->Change("truncate", name_, [&] {
      disk_->WillTruncate(name_, size);
      return FSWritableFileOwnerWrapper::Truncate(size, options, debug);
    });
  }
  IOStatus Sync(const IOOptions&, IODebugContext*) override {
    return disk_->Change("sync", name_, [&] {
      disk_->FileSynced(id_, name_);
      return IOStatus::OK();
    });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Sync(options, debug);
  }
  // A hint to begin writing back; it makes nothing durable.
  IOStatus RangeSync(uint64_t, uint64_t, const IOOptions&, IODebugContext*) override {
    return disk_->Gone(name_);
  }
  // The descriptor is given back even when the power is cut.
  IOStatus Close(const IOOptions& options, IODebugContext* debug) override {
    IOStatus status = FSWritableFileOwnerWrapper::Close(options, debug);
    const IOStatus gone = disk_->Gone(name_);
    return gone.ok() ? status : gone;
  }

 private:
  const std::string name_;
  const PowerCutDisk::FileId id_;
  PowerCutDisk* const disk_;
};

class SyncedDirectory final : public rocksdb::FSDirectoryWrapper {
 public:
  SyncedDirectory(std::unique_ptr<FSDirectory> base, std::string name, PowerCutDisk* disk)
      : FSDirectoryWrapper(std::move(base)), name_(std::move(name)), disk_(disk) {}

  IOStatus Fsync(const IOOptions&, IODebugContext*) override {
    return disk_->Change("sync directory", name_, [&] {
      disk_->DirectorySynced(name_);
      return IOStatus::OK();
    });
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* debug,
                               const DirFsyncOptions&) override {
    return Fsync(options, debug);
  }

 private:
  const std::string name_;
  PowerCutDisk* const disk_;
};

class PowerCutFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  PowerCutFileSystem(std::shared_ptr<FileSystem> base, PowerCutDisk* disk)
      : FileSystemWrapper(std::move(base)), disk_(disk) {}

  static const char* kClassName() { return "EngramPowerCutFileSystem"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewSequentialFile(const std::string& name, const rocksdb::FileOptions& options,
                             std::unique_ptr<FSSequentialFile>* result,
                             IODebugContext* debug) override {
    const IOStatus gone = disk_->Gone(name);
    return gone.ok() ? target()->NewSequentialFile(name, options, result, debug) : gone;
  }
  IOStatus NewRandomAccessFile(const std::string& name, const rocksdb::FileOptions& options,
                               std::unique_ptr<FSRandomAccessFile>* result,
                               IODebugContext* debug) override {
    const IOStatus gone = disk_->Gone(name);
    if (!gone.ok()) return gone;
    std::unique_ptr<FSRandomAccessFile> base;
    IOStatus status = target()->NewRandomAccessFile(name, options, &base, debug);
    if (status.ok()) *result = std::make_unique<ReadFile>(std::move(base), name, disk_);
    return status;
  }
  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<FSWritableFile>* result,
                           IODebugContext* debug) override {
    return disk_->Change("make", name, [&] {
      disk_->WillTruncate(name, 0);
      std::unique_ptr<FSWritableFile> base;
      IOStatus status = target()->NewWritableFile(name, options, &base, debug);
      if (!status.ok()) return status;
      *result = std::make_unique<WriteFile>(std::move(base), name, disk_->Made(name), disk_);
      return status;
    });
  }
  IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                              std::unique_ptr<FSWritableFile>* result,
                              IODebugContext* debug) override {
    return disk_->Change("open", name, [&] {
      std::unique_ptr<FSWritableFile> base;
      IOStatus status = target()->ReopenWritableFile(name, options, &base, debug);
      if (!status.ok()) return status;
      *result = std::make_unique<WriteFile>(std::move(base), name, disk_->Opened(name), disk_);
      return status;
    });
  }
  // Nobody asks for these; should somebody, the account would be wrong.
  IOStatus ReuseWritableFile(const std::string& name, const std::string&,
                             const rocksdb::FileOptions&, std::unique_ptr<FSWritableFile>*,
                             IODebugContext*) override {
    return IOStatus::NotSupported("reuse of " + name);
  }
  IOStatus NewRandomRWFile(const std::string& name, const rocksdb::FileOptions&,
                           std::unique_ptr<rocksdb::FSRandomRWFile>*, IODebugContext*) override {
    return IOStatus::NotSupported("random writes to " + name);
  }
  IOStatus Truncate(const std::string& name, size_t size, const IOOptions& options,
                    IODebugContext* debug) override {
    return disk_->Change("truncate", name, [&] {
      disk_->WillTruncate(name, size);
      return target()->Truncate(name, size, options, debug);
    });
  }
  IOStatus NewDirectory(const std::string& name, const IOOptions& options,
                        std::unique_ptr<FSDirectory>* result, IODebugContext* debug) override {
    const IOStatus gone = disk_->Gone(name);
    if (!gone.ok()) return gone;
    std::unique_ptr<FSDirectory> base;
    IOStatus status = target()->NewDirectory(name, options, &base, debug);
    if (status.ok()) *result = std::make_unique<SyncedDirectory>(std::move(base), name, disk_);
    return status;
  }
  IOStatus CreateDir(const std::string& name, const IOOptions& options,
                     IODebugContext* debug) override {
    return disk_->Change("make directory", name, [&] {
      IOStatus status = target()->CreateDir(name, options, debug);
      if (status.ok()) disk_->MadeDirectory(name);
      return status;
    });
  }
  IOStatus CreateDirIfMissing(const std::string& name, const IOOptions& options,
                              IODebugContext* debug) override {
    return disk_->Change("make directory", name, [&] {
      IOStatus status = target()->CreateDirIfMissing(name, options, debug);
      if (status.ok()) disk_->MadeDirectory(name);
      return status;
    });
  }
  IOStatus DeleteDir(const std::string& name, const IOOptions& options,
                     IODebugContext* debug) override {
    return disk_->Change("remove directory", name, [&] {
      IOStatus status = target()->DeleteDir(name, options, debug);
      if (status.ok()) disk_->Removed(name);
      return status;
    });
  }
  IOStatus DeleteFile(const std::string& name, const IOOptions& options,
                      IODebugContext* debug) override {
    return disk_->Change("remove", name, [&] {
      IOStatus status = target()->DeleteFile(name, options, debug);
      if (status.ok()) disk_->Removed(name);
      return status;
    });
  }
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* debug) override {
    return disk_->Change("rename", from, [&] {
      IOStatus status = target()->RenameFile(from, to, options, debug);
      if (status.ok()) disk_->Renamed(from, to);
      return status;
    });
  }
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* debug) override {
    return disk_->Change("link", from, [&] {
      IOStatus status = target()->LinkFile(from, to, options, debug);
      if (status.ok()) disk_->Linked(from, to);
      return status;
    });
  }

 private:
  PowerCutDisk* const disk_;
};

}  // namespace

std::shared_ptr<rocksdb::FileSystem> NewPowerCutFileSystem(
    std::shared_ptr<rocksdb::FileSystem> base, PowerCutDisk* disk) {
  return std::make_shared<PowerCutFileSystem>(std::move(base), disk);
}

}  // namespace engram
