// StoreCore: the open RocksDB directory and what all parts of a Store share.
//
// A Store, its writers and its readers each hold it; the last of them closes the directory. It
// knows directories, options and column families, and nothing of tables. Thread-safe.
#ifndef ENGRAM_STORAGE_NVME_STORE_CORE_H_
#define ENGRAM_STORAGE_NVME_STORE_CORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/base/mutex.h"
#include "storage/base/unique_fd.h"
#include "storage/base/work_pool.h"
#include "storage/nvme/page.h"
#include "storage/nvme/page_files.h"
#include "storage/nvme/page_reads.h"
#include "storage/nvme/store.h"
#include "storage/nvme/store_internal.h"
#include "storage/nvme/uring_file_system.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class FileSystem;
struct Options;
}  // namespace rocksdb

namespace engram {

class StoreCore;

// One column family, held open. Its files live until it is dropped and the last holder is gone.
class ColumnFamily {
 public:
  ColumnFamily(std::shared_ptr<StoreCore> core, rocksdb::ColumnFamilyHandle* handle);
  ~ColumnFamily();
  ColumnFamily(const ColumnFamily&) = delete;
  ColumnFamily& operator=(const ColumnFamily&) = delete;

  StoreCore& core() const { return *core_; }
  rocksdb::ColumnFamilyHandle* handle() const { return handle_; }

  // Entries of all its files by their footers. DataLoss or Unavailable: one cannot be read.
  absl::StatusOr<uint64_t> CountEntries() const;
  uint64_t DiskBytes() const;

  // Where its pages lie. Opened at the first call; the caller says how the family is laid out,
  // always alike.
  std::shared_ptr<const PageFiles> Files(const PageGeometry& geometry, uint64_t rows);

  // Held while a file is taken out and another put in its place (repair.h). In between RocksDB
  // finds no page of it: a reader that gets that answer calls AwaitSwap and tries again.
  Mutex& swap_mutex() const { return swap_mutex_; }
  void AwaitSwap() const { MutexLock lock(swap_mutex_); }
  // Called at the end of a swap: opens the files again, also for readers that are at work.
  void FilesChanged();

 private:
  std::shared_ptr<const PageFiles> OpenFiles(const PageGeometry& geometry, uint64_t rows) const;

  mutable Mutex swap_mutex_;
  const std::shared_ptr<StoreCore> core_;
  rocksdb::ColumnFamilyHandle* const handle_;
  Mutex mutex_;
  std::shared_ptr<const PageFiles> files_ ABSL_GUARDED_BY(mutex_);
  PageGeometry geometry_ ABSL_GUARDED_BY(mutex_);
  uint64_t rows_ ABSL_GUARDED_BY(mutex_) = 0;
};

using FamilyMap = std::map<std::string, std::shared_ptr<ColumnFamily>>;

class StoreCore : public std::enable_shared_from_this<StoreCore> {
 public:
  // Takes the directory's lock, probes what I/O it can do, and opens RocksDB with every column
  // family there is, the default one (the catalog) left out of `families`.
  // FailedPrecondition: another process, or another Store, has the directory open.
  static absl::StatusOr<std::shared_ptr<StoreCore>> Open(const StoreOptions& options,
                                                         const StoreInternals& internals,
                                                         FamilyMap* families);
  ~StoreCore();

  // To be called when many files have been opened. RocksDB reads a file's index into memory that it
  // frees again, on a dozen threads; glibc keeps what is freed for each of them, as much as the
  // indexes take. This gives it back to the system; some milliseconds.
  static void GiveBackFreedMemory();

  rocksdb::DB& db() { return *db_; }
  WorkPool& pool() { return pool_; }
  // Whether io_uring is used: files() can then have several reads and writes of one thread under
  // way.
  bool ring_io() const { return ring_io_; }
  ReadBudget& read_budget() { return read_budget_; }
  const StoreInternals& internals() const { return internals_; }
  std::string Describe() const;
  // Whether some file could not be opened, and Describe() says so.
  bool damaged() const;
  void ForgetDamage();

  // The options with which SST files must be written.
  const rocksdb::Options& options() const { return *options_; }
  bool direct_io() const { return direct_io_; }
  // Everything that is made, changed or removed in the directory goes through it.
  rocksdb::FileSystem& files() const { return *file_system_; }

  // ResourceExhausted, naming `what`, when the file system is all but full: RocksDB, once it has
  // met a full drive itself, takes no more changes until the next start. To be asked before
  // anything that needs room; what must go on calls GiveUpReserve instead.
  absl::Status CheckRoom(absl::string_view what) const;
  // When the file system is all but full: removes the file that keeps a little room for drops and
  // switches. TakeReserve makes it again when there is room.
  void GiveUpReserve();
  void TakeReserve();

  // Notes, durably, that all that was written so far has left RocksDB's log (settled.h).
  void NoteSettled();

  absl::StatusOr<std::shared_ptr<ColumnFamily>> CreateFamily(const std::string& name);
  // Marks it dropped, durably; readers that hold it go on.
  absl::Status DropFamily(ColumnFamily& family);

  std::string load_directory() const;  // where staging folders lie
  std::string StagingDirectory(absl::string_view version_label) const;
  // Removes a staging folder with all that is in it; fine if there is none.
  absl::Status RemoveStaging(absl::string_view version_label);

 private:
  StoreCore(const StoreOptions& options, const StoreInternals& internals);

  void ChooseFileSystem();
  absl::Status PrepareDirectories();
  absl::Status LockDirectory();
  absl::Status ProbeIo();
  void MakeOptions();
  std::string reserve_file() const;
  std::string settled_file() const;
  // The number of RocksDB's last change, by opening the catalog alone, read-only and with all
  // checks: files of tables that cannot be opened do not matter, and nothing is changed.
  absl::StatusOr<uint64_t> CatalogSequence(const rocksdb::Options& options) const;
  // DataLoss: RocksDB would open an older state than was settled. Changes nothing.
  absl::Status CheckSettled() const;
  absl::StatusOr<std::vector<std::string>> ListFamilies() const;
  absl::Status OpenDb(const std::vector<std::string>& names, FamilyMap* families);
  // Opens with the log up to its first bad record. What a power cut tears is the record that was
  // being written; and should it be damage further back: every publication, switch and drop has
  // left the log for an SST file before it was acknowledged, so only the progress of loads can lie
  // behind it. False: that is not what ails the directory.
  bool OpenWithTornLog(const std::vector<std::string>& names,
                       std::vector<rocksdb::ColumnFamilyHandle*>* handles);
  // Opens although some SST file is missing or damaged, so that all others can be served.
  absl::Status OpenDamagedDb(const std::vector<std::string>& names,
                             std::vector<rocksdb::ColumnFamilyHandle*>* handles);
  std::string db_directory() const;

  const StoreOptions store_options_;
  const StoreInternals internals_;
  UniqueFd lock_;
  bool direct_io_ = false;
  bool ring_io_ = false;
  std::string io_note_;  // "io_uring, direct I/O"
  mutable Mutex damage_mutex_;
  // What OpenDamagedDb was needed for; empty when all is well.
  std::string damage_ ABSL_GUARDED_BY(damage_mutex_);
  UringCounters uring_counters_;
  std::shared_ptr<rocksdb::FileSystem> file_system_;
  ReadBudget read_budget_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::Options> options_;
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* default_family_ = nullptr;
  WorkPool pool_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_STORE_CORE_H_
