#include "storage/nvme/bulk_writer.h"

#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/iterator.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/sst_file_writer.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/directory.h"
#include "storage/nvme/rocks_status.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kReadBlockBytes = uint64_t{4} << 20;
constexpr uint64_t kChunksPerLayer = 8;

// Chunks are named by layer and index.
using ChunkId = std::pair<LayerId, uint32_t>;
ChunkId IdOf(const Chunk& chunk) { return {chunk.layer, chunk.index}; }

// Removes a half-written file unless the chunk gets whole.
class FileGuard {
 public:
  FileGuard(rocksdb::FileSystem& files, std::string path) : files_(files), path_(std::move(path)) {}
  ~FileGuard() {
    if (path_.empty()) return;
    // What is left is overwritten by the next attempt.
    files_.DeleteFile(path_, rocksdb::IOOptions(), nullptr).PermitUncheckedError();
  }
  FileGuard(const FileGuard&) = delete;
  FileGuard& operator=(const FileGuard&) = delete;
  void Keep() { path_.clear(); }

 private:
  rocksdb::FileSystem& files_;
  std::string path_;
};

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
  absl::Status WriteChunk(const Chunk& chunk, RowReader read, const std::atomic<bool>& cancelled,
                          std::atomic<uint64_t>& rows_written) override;
  absl::StatusOr<TableRecord> Publish() override ABSL_LOCKS_EXCLUDED(publish_mutex_);

 private:
  std::string ChunkFile(const Chunk& chunk) const;
  std::string Family(LayerId layer) const {
    return FamilyName(version_.name, version_.version, layer);
  }
  std::string Name(const Chunk& chunk) const;
  absl::StatusOr<bool> AlreadyIngested() const;
  absl::Status ClaimChunk(const Chunk& chunk);
  absl::Status WriteRows(const Chunk& chunk, const PageGeometry& geometry, RowReader read,
                         const std::atomic<bool>& cancelled, std::atomic<uint64_t>& rows_written,
                         rocksdb::SstFileWriter& file, Digest& digest) const;
  absl::Status FinishChunk(const Chunk& chunk, const PageGeometry& geometry, const Digest& digest,
                           rocksdb::SstFileWriter& file);
  // Reads the ends of a chunk's file, which RocksDB takes for granted when it ingests it: it
  // answers damage there by abort(). DataLoss, and then the chunk is to be written again.
  absl::Status CheckFile(const Chunk& chunk) const;
  absl::Status Ingest();
  absl::Status CheckCounts() const;

  const StoreParts parts_;
  CatalogRecord
      record_;  // the digests of its chunks are guarded by mutex_ while chunks are written
  const VersionName version_;
  const std::string label_;
  std::vector<Chunk> todo_;  // const after TakeUp
  uint64_t rows_done_ = 0;

  Mutex publish_mutex_;
  bool ingested_ ABSL_GUARDED_BY(publish_mutex_) = false;
  bool published_ ABSL_GUARDED_BY(publish_mutex_) = false;
  Mutex mutex_;
  std::map<ChunkId, size_t> unwritten_ ABSL_GUARDED_BY(mutex_);  // index into record_'s chunks
  std::set<ChunkId> being_written_ ABSL_GUARDED_BY(mutex_);
};

std::string RocksBulkWriter::ChunkFile(const Chunk& chunk) const {
  return absl::StrFormat("%s/%d-%06d.sst", parts_.core->StagingDirectory(label_), Raw(chunk.layer),
                         chunk.index);
}

std::string RocksBulkWriter::Name(const Chunk& chunk) const {
  return absl::StrCat("table ", version_.name, " version ", Raw(version_.version), " layer ",
                      Raw(chunk.layer), " chunk ", chunk.index);
}

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

absl::Status RocksBulkWriter::WriteRows(const Chunk& chunk, const PageGeometry& geometry,
                                        RowReader read, const std::atomic<bool>& cancelled,
                                        std::atomic<uint64_t>& rows_written,
                                        rocksdb::SstFileWriter& file, Digest& digest) const {
  const uint64_t page_bytes = uint64_t{geometry.rows_per_page} * geometry.row_bytes;
  const uint64_t block_rows =
      std::max<uint64_t>(1, kReadBlockBytes / page_bytes) * geometry.rows_per_page;
  std::vector<std::byte> buffer(std::min(block_rows, chunk.rows) * geometry.row_bytes);
  for (uint64_t done = 0; done < chunk.rows;) {
    if (cancelled.load(std::memory_order_relaxed)) {
      return absl::CancelledError(absl::StrCat("load of ", Name(chunk), " was cancelled"));
    }
    ENGRAM_RETURN_IF_ERROR(parts_.core->CheckRoom("writing " + Name(chunk)));
    const uint64_t rows = std::min(block_rows, chunk.rows - done);
    const absl::Span<std::byte> block(buffer.data(), rows * geometry.row_bytes);
    ENGRAM_RETURN_IF_ERROR(read(chunk.layer, chunk.first + done, rows, block));
    digest.Update(block);
    for (uint64_t row = 0; row < rows; row += geometry.rows_per_page) {
      const uint64_t page_rows = std::min<uint64_t>(geometry.rows_per_page, rows - row);
      const PageKey key =
          EncodePageKey(PageId{(chunk.first + done + row) / geometry.rows_per_page});
      const rocksdb::Slice value(
          reinterpret_cast<const char*>(block.data() + row * geometry.row_bytes),
          page_rows * geometry.row_bytes);
      const rocksdb::Status status = file.Put(rocksdb::Slice(key.data(), key.size()), value);
      if (!status.ok()) return FromRocks(status, "writing " + Name(chunk));
    }
    done += rows;
    rows_written.fetch_add(rows, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

absl::Status RocksBulkWriter::FinishChunk(const Chunk& chunk, const PageGeometry& geometry,
                                          const Digest& digest, rocksdb::SstFileWriter& file) {
  rocksdb::ExternalSstFileInfo info;
  const rocksdb::Status status = file.Finish(&info);  // syncs the file
  if (!status.ok()) return FromRocks(status, "finishing " + Name(chunk));
  const uint64_t pages = geometry.Pages(chunk.rows);
  const PageKey first = EncodePageKey(geometry.PageOf(RowId{static_cast<uint32_t>(chunk.first)}));
  if (info.num_entries != pages || info.smallest_key != std::string(first.data(), first.size())) {
    return absl::DataLossError(absl::StrCat(Name(chunk), ": ", info.file_path, " holds ",
                                            info.num_entries, " pages instead of ", pages,
                                            "; load it again"));
  }
  ENGRAM_RETURN_IF_ERROR(
      SyncDirectory(parts_.core->files(), parts_.core->StagingDirectory(label_)));
  Chunk written = chunk;
  written.digest = digest.Hex();
  return parts_.catalog->AddChunk(record_.table.spec, written, info.file_size);
}

absl::Status RocksBulkWriter::WriteChunk(const Chunk& chunk, RowReader read,
                                         const std::atomic<bool>& cancelled,
                                         std::atomic<uint64_t>& rows_written) {
  ENGRAM_RETURN_IF_ERROR(ClaimChunk(chunk));
  const PageGeometry& geometry = *record_.FindGeometry(chunk.layer);
  Digest digest;
  absl::Status result;
  {
    const std::string path = ChunkFile(chunk);
    FileGuard guard(parts_.core->files(), path);
    rocksdb::EnvOptions io(parts_.core->options());
    io.use_direct_writes = parts_.core->direct_io();
    rocksdb::SstFileWriter file(io, parts_.core->options());
    result = FromRocks(file.Open(path), "making " + path);
    if (result.ok()) {
      result = WriteRows(chunk, geometry, read, cancelled, rows_written, file, digest);
    }
    if (result.ok()) result = FinishChunk(chunk, geometry, digest, file);
    if (result.ok()) guard.Keep();
  }
  MutexLock lock(mutex_);
  being_written_.erase(IdOf(chunk));
  if (result.ok()) {
    const auto found = unwritten_.find(IdOf(chunk));
    record_.table.chunks[found->second].digest = digest.Hex();
    unwritten_.erase(found);
  }
  return result;
}

absl::Status RocksBulkWriter::CheckFile(const Chunk& chunk) const {
  const std::string path = ChunkFile(chunk);
  rocksdb::SstFileReader file(parts_.core->options());
  rocksdb::Status status = file.Open(path);
  bool empty = false;
  if (status.ok()) {
    const std::unique_ptr<rocksdb::Iterator> it(file.NewIterator(rocksdb::ReadOptions()));
    it->SeekToFirst();
    empty = !it->Valid();
    if (!empty) it->SeekToLast();
    empty = empty || !it->Valid();
    status = it->status();
  }
  if (status.ok() && !empty) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(parts_.catalog->ForgetChunk(record_.table.spec, chunk));
  return absl::DataLossError(absl::StrCat(
      Name(chunk), ": ", path, " is damaged: ", empty ? "no page can be read" : status.ToString(),
      "; the same load writes it again"));
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
