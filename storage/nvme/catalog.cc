#include "storage/nvme/catalog.h"

#include <rocksdb/db.h>
#include <rocksdb/iterator.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

absl::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status NoSuchVersion(const VersionName& version) {
  return absl::NotFoundError(
      absl::StrCat("table ", version.name, " has no version ", Raw(version.version)));
}

// Deletes every key that begins with `prefix`; keys of the catalog are ASCII.
void DeletePrefix(const std::string& prefix, rocksdb::WriteBatch& batch) {
  batch.DeleteRange(prefix, prefix + '\x7f');
}

}  // namespace

Catalog::Catalog(std::shared_ptr<StoreCore> core) : core_(std::move(core)) {}

absl::StatusOr<std::unique_ptr<Catalog>> Catalog::Load(std::shared_ptr<StoreCore> core) {
  std::unique_ptr<Catalog> catalog(new Catalog(std::move(core)));
  ENGRAM_RETURN_IF_ERROR(catalog->ReadAll());
  return catalog;
}

absl::Status Catalog::ReadAll() {
  const std::unique_ptr<rocksdb::Iterator> it(core_->db().NewIterator(rocksdb::ReadOptions()));
  for (it->SeekToFirst(); it->Valid(); it->Next()) ReadRecord(View(it->key()), View(it->value()));
  return FromRocks(it->status(), "reading the catalog");
}

void Catalog::ReadRecord(absl::string_view key, absl::string_view text) {
  MutexLock lock(mutex_);
  if (absl::StartsWith(key, kChunkPrefix)) return;     // read when the load is taken up again
  if (absl::StartsWith(key, kTokenMapPrefix)) return;  // read when the version is opened
  absl::Status status;
  if (absl::StartsWith(key, kActivePrefix)) {
    const absl::StatusOr<VersionId> version = DecodeActiveRecord(key, text);
    if (version.ok()) {
      active_[std::string(key.substr(sizeof(kActivePrefix) - 1))] = *version;
      return;
    }
    status = version.status();
  } else {
    const absl::StatusOr<VersionName> version = ParseTableKey(key);
    absl::StatusOr<CatalogRecord> record = DecodeTableRecord(key, text);
    if (version.ok() && record.ok()) {
      records_[*version] = *std::move(record);
      return;
    }
    status = version.ok() ? record.status() : version.status();
    if (version.ok()) damaged_[*version] = status;
  }
  ENGRAM_LOG(kError) << status.message() << "; it is left as it is";
}

absl::Status Catalog::Write(rocksdb::WriteBatch& batch, absl::string_view what) const {
  rocksdb::WriteOptions options;
  options.sync = true;
  return FromRocks(core_->db().Write(options, &batch), what);
}

void Catalog::Settle() const {
  const rocksdb::Status status = core_->db().Flush(rocksdb::FlushOptions());
  if (!status.ok()) {
    ENGRAM_LOG(kWarning) << "the catalog stays in RocksDB's log for now: " << status.ToString();
    return;
  }
  core_->NoteSettled();
}

TableRecord Catalog::Shown(const VersionName& version, const CatalogRecord& record) const {
  TableRecord shown = record.table;
  const auto active = active_.find(version.name);
  shown.active = shown.state == TableState::kPublished && active != active_.end() &&
                 active->second == version.version;
  shown.has_writer = writers_.contains(version);
  return shown;
}

bool Catalog::HasPublished(absl::string_view name) const {
  for (const auto& [version, record] : records_) {
    if (version.name == name && record.table.state == TableState::kPublished) return true;
  }
  // A damaged record may be of the version that was in use: nothing takes its place by itself.
  for (const auto& [version, status] : damaged_) {
    if (version.name == name) return true;
  }
  return false;
}

std::vector<TableRecord> Catalog::List() const {
  MutexLock lock(mutex_);
  std::vector<TableRecord> tables;
  tables.reserve(records_.size());
  for (const auto& [version, record] : records_) tables.push_back(Shown(version, record));
  return tables;
}

absl::StatusOr<CatalogRecord> Catalog::Find(absl::string_view name, VersionId version) const {
  const VersionName key{std::string(name), version};
  MutexLock lock(mutex_);
  if (const auto found = records_.find(key); found != records_.end()) {
    CatalogRecord record = found->second;
    record.table = Shown(key, found->second);
    return record;
  }
  if (const auto found = damaged_.find(key); found != damaged_.end()) return found->second;
  return NoSuchVersion(key);
}

bool Catalog::Knows(const VersionName& version) const {
  MutexLock lock(mutex_);
  return records_.contains(version) || damaged_.contains(version);
}

absl::Status Catalog::ClaimWriter(const VersionName& version) {
  MutexLock lock(mutex_);
  if (writers_.insert(version).second) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("table ", version.name, " version ", Raw(version.version),
                   " is being loaded or repaired right now; wait for that, or cancel it"));
}

void Catalog::ReleaseWriter(const VersionName& version) {
  MutexLock lock(mutex_);
  writers_.erase(version);
}

absl::Status Catalog::AddLoading(const CatalogRecord& record, const TokenMap* token_map) {
  const TableSpec& spec = record.table.spec;
  const std::string key = TableKey(spec.name, spec.version);
  rocksdb::WriteBatch batch;
  batch.Put(key, EncodeTableRecord(record));
  if (token_map != nullptr) {
    const absl::string_view bytes = token_map->bytes();
    batch.Put(TokenMapKey(spec.name, spec.version), rocksdb::Slice(bytes.data(), bytes.size()));
  }
  MutexLock lock(mutex_);
  ENGRAM_RETURN_IF_ERROR(Write(batch, "recording " + key));
  records_[{spec.name, spec.version}] = record;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<TokenMap>> Catalog::ReadTokenMap(const TableSpec& spec) const {
  if (spec.token_map_digest.empty()) return std::nullopt;
  const std::string key = TokenMapKey(spec.name, spec.version);
  std::string bytes;
  const rocksdb::Status status = core_->db().Get(rocksdb::ReadOptions(), key, &bytes);
  if (!status.ok() && !status.IsNotFound()) return FromRocks(status, "reading " + key);
  absl::StatusOr<TokenMap> map = TokenMap::Parse(bytes, spec.token_map_digest);
  if (map.ok()) return *std::move(map);
  return absl::DataLossError(
      absl::StrCat("catalog record ", key,
                   " is damaged: ", status.IsNotFound() ? "it is gone" : map.status().message(),
                   "; drop the version and load it again"));
}

absl::Status Catalog::AddChunk(const TableSpec& spec, const Chunk& chunk, uint64_t file_bytes) {
  const std::string key = ChunkKey(spec.name, spec.version, chunk);
  rocksdb::WriteBatch batch;
  batch.Put(key, EncodeChunkRecord(chunk, file_bytes));
  MutexLock lock(mutex_);
  return Write(batch, "recording " + key);
}

absl::Status Catalog::ForgetChunk(const TableSpec& spec, const Chunk& chunk) {
  const std::string key = ChunkKey(spec.name, spec.version, chunk);
  rocksdb::WriteBatch batch;
  batch.Delete(key);
  MutexLock lock(mutex_);
  return Write(batch, "forgetting " + key);
}

absl::StatusOr<std::map<std::string, ChunkRecord>> Catalog::Chunks(const TableRecord& table) const {
  std::map<std::string, ChunkRecord> chunks;
  for (const Chunk& chunk : table.chunks) {
    const std::string key = ChunkKey(table.spec.name, table.spec.version, chunk);
    std::string text;
    const rocksdb::Status status = core_->db().Get(rocksdb::ReadOptions(), key, &text);
    if (status.IsNotFound()) continue;
    if (!status.ok()) return FromRocks(status, "reading " + key);
    const absl::StatusOr<ChunkRecord> record = DecodeChunkRecord(key, text, chunk);
    if (record.ok()) {
      chunks[key] = *record;
    } else {
      ENGRAM_LOG(kWarning) << record.status().message() << "; the chunk is written again";
    }
  }
  return chunks;
}

absl::StatusOr<TableRecord> Catalog::Publish(CatalogRecord record) {
  record.table.state = TableState::kPublished;
  record.table.active = false;
  record.table.table_digest = TableDigest(TableSpecToJson(record.table.spec), record.table.chunks);
  const VersionName version{record.table.spec.name, record.table.spec.version};
  const std::string key = TableKey(version.name, version.version);

  MutexLock lock(mutex_);
  rocksdb::WriteBatch batch;
  batch.Put(key, EncodeTableRecord(record));
  DeletePrefix(ChunkPrefix(version.name, version.version), batch);
  const bool first = !HasPublished(version.name);
  if (first) batch.Put(ActiveKey(version.name), EncodeActiveRecord(version.version));
  ENGRAM_RETURN_IF_ERROR(Write(batch, "publishing " + key));
  Settle();
  if (first) active_[version.name] = version.version;
  records_[version] = record;
  return Shown(version, record);
}

absl::Status Catalog::Activate(absl::string_view name, VersionId version) {
  const VersionName key{std::string(name), version};
  MutexLock lock(mutex_);
  const auto found = records_.find(key);
  if (found == records_.end()) {
    const auto damaged = damaged_.find(key);
    return damaged == damaged_.end() ? NoSuchVersion(key) : damaged->second;
  }
  if (found->second.table.state != TableState::kPublished) {
    return absl::FailedPreconditionError(
        absl::StrCat("table ", name, " version ", Raw(version),
                     " is not published; finish its load before activating it"));
  }
  core_->GiveUpReserve();  // a roll-back must not fail for want of room
  rocksdb::WriteBatch batch;
  batch.Put(ActiveKey(name), EncodeActiveRecord(version));
  ENGRAM_RETURN_IF_ERROR(
      Write(batch, absl::StrCat("activating table ", name, " version ", Raw(version))));
  Settle();
  active_[key.name] = version;
  core_->TakeReserve();
  return absl::OkStatus();
}

absl::Status Catalog::Remove(const VersionName& version) {
  MutexLock lock(mutex_);
  if (!records_.contains(version) && !damaged_.contains(version)) return NoSuchVersion(version);
  if (writers_.contains(version)) {
    return absl::FailedPreconditionError(
        absl::StrCat("table ", version.name, " version ", Raw(version.version),
                     " is being loaded or repaired right now; cancel that before dropping it"));
  }
  rocksdb::WriteBatch batch;
  batch.Delete(TableKey(version.name, version.version));
  batch.Delete(TokenMapKey(version.name, version.version));
  DeletePrefix(ChunkPrefix(version.name, version.version), batch);
  const auto active = active_.find(version.name);
  const bool was_active = active != active_.end() && active->second == version.version;
  if (was_active) batch.Delete(ActiveKey(version.name));
  ENGRAM_RETURN_IF_ERROR(Write(
      batch, absl::StrCat("dropping table ", version.name, " version ", Raw(version.version))));
  Settle();
  if (was_active) active_.erase(active);
  records_.erase(version);
  damaged_.erase(version);
  return absl::OkStatus();
}

}  // namespace engram
