#include "storage/nvme/bulk_writer.h"

#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/options.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/chunk_file.h"
#include "storage/nvme/chunk_samples.h"
#include "storage/nvme/directory.h"
#include "storage/nvme/rocks_status.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kChunksPerLayer = 8;

// Chunks are named by layer and index.
using ChunkId = std::pair<LayerId, uint32_t>;
ChunkId IdOf(const Chunk& chunk) { return {chunk.layer, chunk.index}; }

class RocksBulkWriter final : public BulkWriter {
 public:
  RocksBulkWriter(StoreParts parts, CatalogRecord record)
      : parts_(std::move(parts)),
        record_(std::move(record)),
        version_{record_.table.spec.name, record_.table.spec.version},
        label_(VersionLabel(version_.name, version_.version)) {}
  ~RocksBulkWriter() override { parts_.catalog->ReleaseWriter(version_); }

  // Finds out how far an earlier attempt came. Before any other call.
  absl::Status TakeUp();

  const std::vector<Chunk>& todo() const override { return todo_; }
  uint64_t rows_done() const override { return rows_done_; }
  absl::Status CheckResumed(RowReader read) const override;
  absl::Status WriteChunk(const Chunk& chunk, RowReader read, const std::atomic<bool>& cancelled,
                          std::atomic<uint64_t>& rows_written) override;
  absl::StatusOr<TableRecord> Publish() override ABSL_LOCKS_EXCLUDED(publish_mutex_);

 private:
  std::string ChunkFile(const Chunk& chunk) const {
    return ChunkFilePath(*parts_.core, label_, chunk);
  }
  std::string Family(LayerId layer) const {
    return FamilyName(version_.name, version_.version, layer);
  }
  std::string Name(const Chunk& chunk) const { return ChunkName(version_, chunk); }
  absl::StatusOr<bool> AlreadyIngested() const;
  absl::Status ClaimChunk(const Chunk& chunk);
  absl::StatusOr<WrittenChunk> WriteFile(const Chunk& chunk, RowReader read,
                                         const std::atomic<bool>& cancelled,
                                         std::atomic<uint64_t>& rows_written);
  // DataLoss: the chunk's file is damaged, and the chunk is to be written again.
  absl::Status CheckFile(const Chunk& chunk) const;
  absl::Status Ingest();
  absl::Status CheckCounts() const;

  const StoreParts parts_;
  CatalogRecord
      record_;  // the digests of its chunks are guarded by mutex_ while chunks are written
  const VersionName version_;
  const std::string label_;
  std::vector<Chunk> todo_;     // const after TakeUp
  std::vector<Chunk> resumed_;  // likewise: finished earlier, and not ingested
  uint64_t rows_done_ = 0;

  Mutex publish_mutex_;
  bool ingested_ ABSL_GUARDED_BY(publish_mutex_) = false;
  bool published_ ABSL_GUARDED_BY(publish_mutex_) = false;
  Mutex mutex_;
  std::map<ChunkId, size_t> unwritten_ ABSL_GUARDED_BY(mutex_);  // index into record_'s chunks
  std::set<ChunkId> being_written_ ABSL_GUARDED_BY(mutex_);
};

// All pages of all layers are in their column families: the crash came between the ingestion,
// which is atomic over all of them, and the catalog write.
absl::StatusOr<bool> RocksBulkWriter::AlreadyIngested() const {
  const std::vector<LayerSpec>& layers = record_.table.spec.layers;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::shared_ptr<ColumnFamily> family = parts_.families->Find(Family(layers[i].id));
    if (family == nullptr) return false;
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t entries, family->CountEntries());
    if (entries != record_.geometry[i].Pages(layers[i].rows)) return false;
  }
  return true;
}

absl::Status RocksBulkWriter::TakeUp() {
  ENGRAM_RETURN_IF_ERROR(
      MakeDirectory(parts_.core->files(), parts_.core->StagingDirectory(label_)));
  ENGRAM_ASSIGN_OR_RETURN(const auto recorded, parts_.catalog->Chunks(record_.table));
  const absl::StatusOr<bool> ingested = AlreadyIngested();
  if (!ingested.ok()) {
    ENGRAM_LOG(kWarning) << label_ << " was ingested, but: " << ingested.status().message()
                         << "; it is loaded again";
  }
  const bool full = ingested.ok() && *ingested && recorded.size() == record_.table.chunks.size();
  // Ingestion is all or nothing, so families that are not full hold nothing that is needed.
  if (!full) ENGRAM_RETURN_IF_ERROR(parts_.families->DropAll(version_));

  MutexLock publish_lock(publish_mutex_);
  MutexLock lock(mutex_);
  ingested_ = full;
  for (size_t i = 0; i < record_.table.chunks.size(); ++i) {
    Chunk& chunk = record_.table.chunks[i];
    const auto found = recorded.find(ChunkKey(version_.name, version_.version, chunk));
    std::error_code error;
    if (found != recorded.end() &&
        (full || fs::file_size(ChunkFile(chunk), error) == found->second.file_bytes)) {
      chunk.digest = found->second.digest;
      rows_done_ += chunk.rows;
      if (!full) resumed_.push_back(chunk);
      continue;
    }
    // A file of the recorded size must never be taken for the recorded file while it is rewritten.
    if (found != recorded.end()) {
      ENGRAM_RETURN_IF_ERROR(parts_.catalog->ForgetChunk(record_.table.spec, chunk));
    }
    unwritten_[IdOf(chunk)] = i;
    todo_.push_back(chunk);
  }
  return absl::OkStatus();
}

absl::Status RocksBulkWriter::CheckResumed(RowReader read) const {
  for (const Chunk& chunk : resumed_) {
    ENGRAM_RETURN_IF_ERROR(CompareSamples(parts_.core->options(), ChunkFile(chunk), chunk,
                                          *record_.FindGeometry(chunk.layer), read));
  }
  return absl::OkStatus();
}

absl::Status RocksBulkWriter::ClaimChunk(const Chunk& chunk) {
  MutexLock lock(mutex_);
  const auto found = unwritten_.find(IdOf(chunk));
  if (found == unwritten_.end()) {
    return absl::InvalidArgumentError(absl::StrCat(Name(chunk), " is not to do"));
  }
  const Chunk& planned = record_.table.chunks[found->second];
  if (planned.first != chunk.first || planned.rows != chunk.rows) {
    return absl::InvalidArgumentError(absl::StrCat(Name(chunk), " is rows ", planned.first, " to ",
                                                   planned.first + planned.rows - 1));
  }
  if (!being_written_.insert(found->first).second) {
    return absl::FailedPreconditionError(absl::StrCat(Name(chunk), " is being written already"));
  }
  return absl::OkStatus();
}

absl::StatusOr<WrittenChunk> RocksBulkWriter::WriteFile(const Chunk& chunk, RowReader read,
                                                        const std::atomic<bool>& cancelled,
                                                        std::atomic<uint64_t>& rows_written) {
  const std::string path = ChunkFile(chunk);
  FileGuard guard(parts_.core->files(), path);
  ENGRAM_ASSIGN_OR_RETURN(
      WrittenChunk result,
      WriteChunkFile(*parts_.core, path, Name(chunk), chunk, *record_.FindGeometry(chunk.layer),
                     read, cancelled, rows_written));
  Chunk written = chunk;
  written.digest = result.digest;
  ENGRAM_RETURN_IF_ERROR(parts_.catalog->AddChunk(record_.table.spec, written, result.file_bytes));
  guard.Keep();
  return result;
}

absl::Status RocksBulkWriter::WriteChunk(const Chunk& chunk, RowReader read,
                                         const std::atomic<bool>& cancelled,
                                         std::atomic<uint64_t>& rows_written) {
  ENGRAM_RETURN_IF_ERROR(ClaimChunk(chunk));
  const absl::StatusOr<WrittenChunk> written = WriteFile(chunk, read, cancelled, rows_written);
  MutexLock lock(mutex_);
  being_written_.erase(IdOf(chunk));
  if (!written.ok()) return written.status();
  const auto found = unwritten_.find(IdOf(chunk));
  record_.table.chunks[found->second].digest = written->digest;
  unwritten_.erase(found);
  return absl::OkStatus();
}

absl::Status RocksBulkWriter::CheckFile(const Chunk& chunk) const {
  const absl::Status status = CheckChunkFileEnds(*parts_.core, ChunkFile(chunk));
  if (status.ok()) return status;
  ENGRAM_RETURN_IF_ERROR(parts_.catalog->ForgetChunk(record_.table.spec, chunk));
  return absl::DataLossError(
      absl::StrCat(Name(chunk), ": ", status.message(), "; the same load writes it again"));
}

absl::Status RocksBulkWriter::Ingest() {
  for (const Chunk& chunk : record_.table.chunks) ENGRAM_RETURN_IF_ERROR(CheckFile(chunk));
  std::vector<rocksdb::IngestExternalFileArg> layers;
  for (const LayerSpec& layer : record_.table.spec.layers) {
    const std::string name = Family(layer.id);
    // One that an earlier attempt to publish made, and that holds nothing.
    ENGRAM_RETURN_IF_ERROR(parts_.families->Drop(name));
    ENGRAM_ASSIGN_OR_RETURN(const std::shared_ptr<ColumnFamily> family,
                            parts_.core->CreateFamily(name));
    parts_.families->Add(name, family);
    rocksdb::IngestExternalFileArg files;
    files.column_family = family->handle();
    files.options.move_files = true;
    files.options.write_global_seqno = false;
    for (const Chunk& chunk : record_.table.chunks) {
      if (chunk.layer == layer.id) files.external_files.push_back(ChunkFile(chunk));
    }
    layers.push_back(std::move(files));
    parts_.core->internals().Step("family made");
  }
  return FromRocks(parts_.core->db().IngestExternalFiles(layers), "ingesting " + label_);
}

absl::Status RocksBulkWriter::CheckCounts() const {
  const std::vector<LayerSpec>& layers = record_.table.spec.layers;
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string name = Family(layers[i].id);
    const std::shared_ptr<ColumnFamily> family = parts_.families->Find(name);
    if (family == nullptr) return absl::InternalError("no column family " + name);
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t entries, family->CountEntries());
    const uint64_t pages = record_.geometry[i].Pages(layers[i].rows);
    if (entries != pages) {
      return absl::DataLossError(absl::StrCat(name, " holds ", entries, " pages instead of ", pages,
                                              "; drop the version and load it again"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<TableRecord> RocksBulkWriter::Publish() {
  MutexLock publish_lock(publish_mutex_);
  if (published_) return absl::FailedPreconditionError(label_ + " is published already");
  {
    MutexLock lock(mutex_);
    if (!unwritten_.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          label_, " has ", unwritten_.size(), " chunks that are not written; write them first"));
    }
  }
  ENGRAM_RETURN_IF_ERROR(parts_.core->CheckRoom("publishing " + label_));
  if (!ingested_) {
    ENGRAM_RETURN_IF_ERROR(Ingest());
    ingested_ = true;
    parts_.core->internals().Step("ingested");
  }
  ENGRAM_RETURN_IF_ERROR(CheckCounts());
  ENGRAM_ASSIGN_OR_RETURN(TableRecord published, parts_.catalog->Publish(record_));
  published_ = true;
  parts_.core->internals().Step("published");
  if (const absl::Status status = parts_.core->RemoveStaging(label_); !status.ok()) {
    ENGRAM_LOG(kWarning) << status.message() << "; the next start removes it";
  }
  StoreCore::GiveBackFreedMemory();
  return published;
}

absl::Status CheckResumable(const TableRecord& existing, const TableSpec& spec) {
  const std::string label = VersionLabel(spec.name, spec.version);
  if (existing.state == TableState::kPublished) {
    return absl::AlreadyExistsError(label + " is published already");
  }
  if (existing.spec == spec) return absl::OkStatus();
  if (existing.spec.checkpoint_digest == spec.checkpoint_digest) {
    return absl::FailedPreconditionError(
        absl::StrCat(label,
                     " was begun from this checkpoint, but the table was described in another "
                     "way then (by an earlier release, or with another --model); drop that "
                     "version, or choose another one"));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      label, " is being loaded from another checkpoint (digest ", existing.spec.checkpoint_digest,
      ", not ", spec.checkpoint_digest, "); drop that version, or choose another one"));
}

}  // namespace

std::vector<std::string> Families::Names() const {
  MutexLock lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, family] : families_) names.push_back(name);
  return names;
}

std::shared_ptr<ColumnFamily> Families::Find(const std::string& name) const {
  MutexLock lock(mutex_);
  const auto found = families_.find(name);
  return found == families_.end() ? nullptr : found->second;
}

void Families::Add(const std::string& name, std::shared_ptr<ColumnFamily> family) {
  MutexLock lock(mutex_);
  families_[name] = std::move(family);
}

absl::Status Families::Drop(const std::string& name) {
  const std::shared_ptr<ColumnFamily> family = Find(name);
  if (family == nullptr) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(family->core().DropFamily(*family));
  MutexLock lock(mutex_);
  families_.erase(name);
  return absl::OkStatus();
}

absl::Status Families::DropAll(const VersionName& version) {
  for (const std::string& name : Names()) {
    const absl::StatusOr<VersionName> owner = ParseVersionLabel(name);
    if (owner.ok() && *owner == version) ENGRAM_RETURN_IF_ERROR(Drop(name));
  }
  return absl::OkStatus();
}

std::vector<Chunk> PlanChunks(const TableSpec& spec, const std::vector<PageGeometry>& geometry,
                              uint64_t min_bytes, uint64_t max_bytes) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const uint64_t pages = geometry[i].Pages(layer.rows);
    const uint64_t bytes = pages * geometry[i].block_bytes;
    const uint64_t wanted =
        std::max<uint64_t>(1, std::clamp(bytes / kChunksPerLayer, min_bytes, max_bytes));
    const uint64_t count = std::min(pages, (bytes + wanted - 1) / wanted);
    const uint64_t chunk_rows = (pages + count - 1) / count * geometry[i].rows_per_page;
    uint32_t index = 0;
    for (uint64_t first = 0; first < layer.rows; first += chunk_rows) {
      chunks.push_back(
          {layer.id, index++, first, std::min(chunk_rows, layer.rows - first), std::string()});
    }
  }
  return chunks;
}

namespace {

absl::Status CheckTokenMap(const TableSpec& spec, const TokenMap* token_map) {
  const std::string found = token_map == nullptr ? std::string() : token_map->digest();
  const uint64_t size = token_map == nullptr ? 0 : token_map->size();
  if (found == spec.token_map_digest && size == spec.token_map_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("table ", spec.name, ": its description names the token map of ",
                   spec.token_map_size, " ids with digest '", spec.token_map_digest,
                   "', the one given has ", size, " ids and digest '", found, "'"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<BulkWriter>> BeginBulkLoad(const StoreParts& parts,
                                                          const TableSpec& spec,
                                                          const TokenMap* token_map) {
  ENGRAM_RETURN_IF_ERROR(CheckTableName(spec.name));
  ENGRAM_RETURN_IF_ERROR(CheckTableSpec(spec));
  ENGRAM_RETURN_IF_ERROR(CheckTokenMap(spec, token_map));
  if (spec.version == kActiveVersion) {
    return absl::InvalidArgumentError("table " + spec.name + ": versions count from 1, not 0");
  }
  const VersionName version{spec.name, spec.version};
  ENGRAM_RETURN_IF_ERROR(parts.core->CheckRoom("loading table " + spec.name));
  ENGRAM_RETURN_IF_ERROR(parts.catalog->ClaimWriter(version));
  // From here on the writer's destructor gives the claim back; before it exists, we do.
  absl::StatusOr<CatalogRecord> record = parts.catalog->Find(spec.name, spec.version);
  absl::Status status = record.status();
  if (record.ok()) {
    status = CheckResumable(record->table, spec);
    // An equal spec names an equal map. It is written once more in case the stored one is damaged.
    if (status.ok()) status = parts.catalog->AddLoading(*record, token_map);
  } else if (absl::IsNotFound(status)) {
    CatalogRecord fresh;
    fresh.table.spec = spec;
    for (const LayerSpec& layer : spec.layers) {
      fresh.geometry.push_back(ChoosePageGeometry(layer.row_bytes));
    }
    const StoreInternals& internals = parts.core->internals();
    fresh.table.chunks =
        PlanChunks(spec, fresh.geometry, internals.min_chunk_bytes, internals.max_chunk_bytes);
    status = parts.catalog->AddLoading(fresh, token_map);
    record = std::move(fresh);
  }
  if (!status.ok()) {
    parts.catalog->ReleaseWriter(version);
    return status;
  }
  auto writer = std::make_unique<RocksBulkWriter>(parts, *std::move(record));
  ENGRAM_RETURN_IF_ERROR(writer->TakeUp());
  return std::unique_ptr<BulkWriter>(std::move(writer));
}

}  // namespace engram
