// Catalog: which versions exist and in which state, in memory and, synced, in RocksDB.
//
// Every change is durable before memory shows it. A record that cannot be read is kept as it is,
// logged, left out of List, and answers Find with its own error; only an explicit drop of that very
// version removes it. Thread-safe; writers block on the drive.
#ifndef ENGRAM_STORAGE_NVME_CATALOG_H_
#define ENGRAM_STORAGE_NVME_CATALOG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/base/mutex.h"
#include "storage/nvme/catalog_record.h"
#include "storage/nvme/store_core.h"

namespace rocksdb {
class WriteBatch;
}

namespace engram {

class Catalog {
 public:
  // Reads every record. Errors are those of the drive; damaged records are none.
  static absl::StatusOr<std::unique_ptr<Catalog>> Load(std::shared_ptr<StoreCore> core);

  std::vector<TableRecord> List() const;
  // NotFound, or the error of its damaged record.
  absl::StatusOr<CatalogRecord> Find(absl::string_view name, VersionId version) const;
  // Whether there is a record, damaged or not: whether files of this version must be kept.
  bool Knows(const VersionName& version) const;

  // Makes a version's only writer of the caller until ReleaseWriter. FailedPrecondition: there is
  // one already.
  absl::Status ClaimWriter(const VersionName& version);
  void ReleaseWriter(const VersionName& version);

  // Records a version that begins to load, or begins again, with its token map if it has one.
  absl::Status AddLoading(const CatalogRecord& record, const TokenMap* token_map);
  // As Store::ReadTokenMap.
  absl::StatusOr<std::optional<TokenMap>> ReadTokenMap(const TableSpec& spec) const;
  absl::Status AddChunk(const TableSpec& spec, const Chunk& chunk, uint64_t file_bytes);
  // The chunks of a loading version that an earlier attempt has recorded; damaged records are
  // logged and count as missing, so that those chunks are written again.
  absl::StatusOr<std::map<std::string, ChunkRecord>> Chunks(const TableRecord& table) const;
  // Takes back that a chunk is whole, before its file is written again.
  absl::Status ForgetChunk(const TableSpec& spec, const Chunk& chunk);
  // Turns the loading version into this published one; active if it is the table's first.
  // Returns it as List shows it.
  absl::StatusOr<TableRecord> Publish(CatalogRecord record);
  absl::Status Activate(absl::string_view name, VersionId version);
  // NotFound: no such version. FailedPrecondition: it has a writer.
  absl::Status Remove(const VersionName& version);

 private:
  explicit Catalog(std::shared_ptr<StoreCore> core);

  absl::Status ReadAll();
  void ReadRecord(absl::string_view key, absl::string_view text);
  // One writer at a time: RocksDB would merge the batches of several, with a synchronisation that
  // ThreadSanitizer cannot see, and a chunk takes seconds where this takes milliseconds.
  absl::Status Write(rocksdb::WriteBatch& batch, absl::string_view what) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves what has been written from RocksDB's log into an SST file. A damaged length in the log
  // can look like its end and hide what follows; in an SST file every byte is under a checksum.
  void Settle() const;
  TableRecord Shown(const VersionName& version, const CatalogRecord& record) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasPublished(absl::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<StoreCore> core_;
  mutable Mutex mutex_;
  std::map<VersionName, CatalogRecord> records_ ABSL_GUARDED_BY(mutex_);
  std::map<VersionName, absl::Status> damaged_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, VersionId> active_ ABSL_GUARDED_BY(mutex_);
  std::set<VersionName> writers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_CATALOG_H_
