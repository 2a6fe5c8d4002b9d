// PowerCutDisk: a drive whose power can go out, under a store.
//
// What a store does to files goes through to a real directory at once, and beside it the disk keeps
// account of what would outlive a power cut: the bytes of a file up to its last Sync, the entries
// of a directory up to its last Fsync (files made, renamed, linked and removed in it, and folders
// likewise). From the cut on every operation fails. Recover() then writes what the drive holds into
// a new directory: all that was made durable, and of the rest a part, chosen by the seed. Of the
// changes to one directory that were not synced, a prefix is kept; of the bytes of a file that were
// not synced, any number, of which pages may be missing (they read as zeros) and the last sector
// may be torn (it reads as garbage). That is what file systems with a journal for their metadata
// leave behind, and no more can be relied on by POSIX.
//
// Real syncs are left out, for speed. Files that did not come through this file system (RocksDB's
// own text log) are no part of the account, unless their directory is synced or they are linked or
// renamed: then they count as durable from there on.
//
// Thread-safe; one operation at a time. It outlives the file systems that it makes.
#ifndef ENGRAM_TESTS_FAULT_POWER_CUT_DISK_H_
#define ENGRAM_TESTS_FAULT_POWER_CUT_DISK_H_

#include <rocksdb/file_system.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "storage/base/mutex.h"
#include "storage/nvme/store_internal.h"

namespace engram {

class PowerCutDisk {
 public:
  using FileId = uint64_t;

  // The drive is `directory`/disk; what lies there already is durable. A folder beside it keeps
  // what is removed from the drive until Recover() has been asked for it.
  explicit PowerCutDisk(const std::string& directory);
  PowerCutDisk(const PowerCutDisk&) = delete;
  PowerCutDisk& operator=(const PowerCutDisk&) = delete;

  const std::string& root() const { return root_; }

  // The internals of a store on this drive.
  StoreInternals Internals(StoreInternals internals);

  // The power goes out at the n-th change from the beginning on (0: never). With `late` that change
  // still reaches the drive, but nobody learns of it.
  void CutAt(uint64_t change, bool late);
  uint64_t changes() const { return changes_.load(); }
  bool cut() const { return cut_.load(); }
  std::string cut_point() const;  // the operation that met the cut

  // Plants a fault: syncs of the files and directories that it names answer OK and do nothing.
  void SwallowSyncs(std::function<bool(const std::string& path)> which);

  // Writes what is left after the cut into `target`, which must not exist.
  void Recover(const std::string& target, uint64_t seed);

  // For the file system over the drive: runs `operation` as one change. `what` and `path` name it.
  rocksdb::IOStatus Change(const char* what, const std::string& path,
                           const std::function<rocksdb::IOStatus()>& operation);
  rocksdb::IOStatus Gone(const std::string& path) const;  // OK while there is power

  // Accounts of what an operation has done; only from within Change. Paths are absolute; those
  // outside the drive are none of its business.
  FileId Made(const std::string& path);
  FileId Opened(const std::string& path);
  void WillTruncate(const std::string& path, uint64_t size);
  void Wrote(FileId id, uint64_t offset, uint64_t bytes);
  void Appended(FileId id, uint64_t bytes);
  void FileSynced(FileId id, const std::string& path);
  void MadeDirectory(const std::string& path);
  void DirectorySynced(const std::string& path);
  void Linked(const std::string& from, const std::string& to);
  void Renamed(const std::string& from, const std::string& to);
  void Removed(const std::string& path);

 private:
  // One change of a directory's entries; a rename within it is both at once.
  struct EntryChange {
    std::string removed;
    std::string added;
    FileId id = 0;
  };
  struct Directory {
    std::map<std::string, FileId> live;
    std::map<std::string, FileId> durable;
    std::vector<EntryChange> pending;
  };
  struct File {
    uint64_t size = 0;
    uint64_t synced = 0;
    // Of a file cut short below what was synced, and not synced since: what the drive may still
    // hold.
    std::string before;
  };

  bool OnDrive(const std::string& path) const;
  Directory* FindDirectory(const std::string& path);
  FileId FindFile(const std::string& path);  // adopts it if it is there but not known; else 0
  FileId Adopt(const std::string& path);
  void Enter(const std::string& path, FileId id);
  std::string AtticPath(FileId id) const;
  void RecoverDirectory(FileId id, const std::string& target, std::mt19937_64& random,
                        std::map<FileId, std::string>& written) const;
  void RecoverFile(FileId id, const std::string& target, std::mt19937_64& random) const;

  const std::string root_;
  const std::string attic_;
  mutable Mutex mutex_;
  std::atomic<uint64_t> changes_{0};
  std::atomic<bool> cut_{false};
  uint64_t cut_at_ ABSL_GUARDED_BY(mutex_) = 0;
  bool late_ ABSL_GUARDED_BY(mutex_) = false;
  std::string cut_point_ ABSL_GUARDED_BY(mutex_);
  // Under the mutex too: the accounts run within Change, which the analysis does not see.
  std::function<bool(const std::string&)> swallow_;
  FileId next_id_ = 1;
  std::map<FileId, Directory> directories_;
  std::map<FileId, File> files_;
};

}  // namespace engram

#endif  // ENGRAM_TESTS_FAULT_POWER_CUT_DISK_H_
