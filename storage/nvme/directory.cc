#include "storage/nvme/directory.h"

#include <rocksdb/file_system.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

constexpr mode_t kMode = 0750;

// RocksDB makes folders that everybody may read.
absl::Status Restrict(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && ::chmod(path.c_str(), info.st_mode & kMode) == 0) {
    return absl::OkStatus();
  }
  return FromErrno(errno, "restricting directory " + path);
}

}  // namespace

absl::Status SyncDirectory(rocksdb::FileSystem& files, const std::string& path) {
  const rocksdb::IOOptions io;
  std::unique_ptr<rocksdb::FSDirectory> directory;
  rocksdb::IOStatus status = files.NewDirectory(path, io, &directory, nullptr);
  if (!status.ok()) return FromRocks(status, "opening directory " + path);
  status = directory->Fsync(io, nullptr);
  return FromRocks(status, "syncing directory " + path);
}

absl::Status MakeDirectory(rocksdb::FileSystem& files, const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no directory; choose another data directory, or remove it"));
  }
  const std::filesystem::path parent = std::filesystem::absolute(path).parent_path();
  if (!parent.empty() && parent != std::filesystem::path(path)) {
    ENGRAM_RETURN_IF_ERROR(MakeDirectory(files, parent.string()));
  }
  const rocksdb::IOStatus made = files.CreateDirIfMissing(path, rocksdb::IOOptions(), nullptr);
  if (!made.ok()) return FromRocks(made, "making directory " + path);
  ENGRAM_RETURN_IF_ERROR(Restrict(path));
  return SyncDirectory(files, parent.string());
}

absl::Status RemoveDirectory(rocksdb::FileSystem& files, const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : FromErrno(errno, "looking at " + path);
  }
  const rocksdb::IOOptions io;
  std::vector<std::string> children;
  rocksdb::IOStatus status = files.GetChildren(path, io, &children, nullptr);
  if (!status.ok()) return FromRocks(status, "listing " + path);
  for (const std::string& child : children) {
    const std::string name = absl::StrCat(path, "/", child);
    if (::lstat(name.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
      ENGRAM_RETURN_IF_ERROR(RemoveDirectory(files, name));
      continue;
    }
    status = files.DeleteFile(name, io, nullptr);
    if (!status.ok()) return FromRocks(status, "removing " + name);
  }
  return FromRocks(files.DeleteDir(path, io, nullptr), "removing " + path);
}

absl::Status Reserve(rocksdb::FileSystem& files, const std::string& name, uint64_t bytes) {
  const rocksdb::IOOptions io;
  std::unique_ptr<rocksdb::FSWritableFile> file;
  rocksdb::IOStatus status = files.NewWritableFile(name, rocksdb::FileOptions(), &file, nullptr);
  if (!status.ok()) return FromRocks(status, "making " + name);
  status = file->Allocate(0, bytes, io, nullptr);
  if (status.ok()) status = file->Sync(io, nullptr);
  file->Close(io, nullptr).PermitUncheckedError();
  if (!status.ok()) files.DeleteFile(name, io, nullptr).PermitUncheckedError();
  return FromRocks(status, "reserving room in " + name);
}

}  // namespace engram
