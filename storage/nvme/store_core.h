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
#include "storage/nvme/store.h"
#include "storage/nvme/store_internal.h"
#include "storage/nvme/uring_file_system.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
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

 private:
  const std::shared_ptr<StoreCore> core_;
  rocksdb::ColumnFamilyHandle* const handle_;
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

  rocksdb::DB& db() { return *db_; }
  WorkPool& pool() { return pool_; }
  const StoreInternals& internals() const { return internals_; }
  std::string Describe() const;

  // The options with which SST files must be written.
  const rocksdb::Options& options() const { return *options_; }
  bool direct_io() const { return direct_io_; }
  bool ring_io() const { return ring_io_; }  // io_uring is used

  absl::StatusOr<std::shared_ptr<ColumnFamily>> CreateFamily(const std::string& name);
  // Marks it dropped, durably; readers that hold it go on.
  absl::Status DropFamily(ColumnFamily& family);

  std::string load_directory() const;  // where staging folders lie
  std::string StagingDirectory(absl::string_view version_label) const;
  // Removes a staging folder with all that is in it; fine if there is none.
  absl::Status RemoveStaging(absl::string_view version_label);

 private:
  StoreCore(const StoreOptions& options, const StoreInternals& internals);

  absl::Status PrepareDirectories();
  absl::Status LockDirectory();
  absl::Status ProbeIo();
  void MakeOptions();
  absl::StatusOr<std::vector<std::string>> ListFamilies() const;
  absl::Status OpenDb(const std::vector<std::string>& names, FamilyMap* families);
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
  std::string damage_;   // what OpenDamagedDb was needed for; empty when all is well
  UringCounters uring_counters_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<rocksdb::Options> options_;
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* default_family_ = nullptr;
  WorkPool pool_;
};

// Makes `path` and its parents, and what is new durable.
absl::Status MakeDirectory(const std::string& path);
absl::Status SyncDirectory(const std::string& path);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_STORE_CORE_H_
