#include "storage/nvme/repair.h"

#include <rocksdb/db.h>
#include <rocksdb/file_system.h>
#include <rocksdb/metadata.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/catalog.h"
#include "storage/nvme/chunk_file.h"
#include "storage/nvme/directory.h"
#include "storage/nvme/page.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/store_core.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

// How long a repair waits for the last look-up that reads from the old file.
constexpr int kRemovalTries = 100;
constexpr std::chrono::milliseconds kRemovalPause{20};

std::string KeyOf(PageId page) {
  const PageKey key = EncodePageKey(page);
  return std::string(key.data(), key.size());
}

// One chunk, with all that is needed to change it.
struct Target {
  const StoreParts& parts;
  VersionName version;
  Chunk chunk;  // as recorded
  PageGeometry geometry;
  std::shared_ptr<ColumnFamily> family;

  std::string Name() const { return ChunkName(version, chunk); }
  rocksdb::DB& db() const { return parts.core->db(); }
};

absl::StatusOr<Target> FindTarget(const StoreParts& parts, const VersionName& version,
                                  const Chunk& chunk) {
  ENGRAM_ASSIGN_OR_RETURN(const CatalogRecord record,
                          parts.catalog->Find(version.name, version.version));
  const std::string name = ChunkName(version, chunk);
  if (record.table.state != TableState::kPublished) {
    return absl::FailedPreconditionError(
        name + " cannot be repaired: the version is still being loaded; finish its load");
  }
  for (const Chunk& recorded : record.table.chunks) {
    if (recorded.layer != chunk.layer || recorded.index != chunk.index) continue;
    if (recorded.first != chunk.first || recorded.rows != chunk.rows) break;
    Target target{parts, version, recorded, *record.FindGeometry(chunk.layer),
                  parts.families->Find(FamilyName(version.name, version.version, chunk.layer))};
    if (target.family != nullptr) return target;
    return absl::DataLossError(
        absl::StrCat(name, ": its column family is gone; drop the version and load it again"));
  }
  return absl::InvalidArgumentError(name + " is no chunk of the version");
}

// The live files that hold pages of a chunk, and the first key of the file behind them. Both from
// RocksDB's own list, which it has whatever became of the files.
struct LiveFiles {
  std::vector<rocksdb::SstFileMetaData> own;
  std::optional<std::string> next_key;
};

LiveFiles FindLiveFiles(const Target& target) {
  const std::string first = KeyOf(FirstPage(target.chunk, target.geometry));
  const std::string last = KeyOf(LastPage(target.chunk, target.geometry));
  rocksdb::ColumnFamilyMetaData family;
  target.db().GetColumnFamilyMetaData(target.family->handle(), &family);
  LiveFiles files;
  for (const rocksdb::LevelMetaData& level : family.levels) {
    for (const rocksdb::SstFileMetaData& file : level.files) {
      if (file.smallestkey > last) {
        if (!files.next_key.has_value() || file.smallestkey < *files.next_key) {
          files.next_key = file.smallestkey;
        }
      } else if (file.largestkey >= first) {
        files.own.push_back(file);
      }
    }
  }
  return files;
}

// RocksDB puts a file in only after it has looked for its first key, which, the old file being out,
// makes it read the first page of the file behind. That page must be good before anything is taken
// out. Likewise a file that holds other chunks too cannot be taken out; we never write such a one.
absl::Status CheckSwappable(const Target& target, const LiveFiles& files) {
  const std::string first = KeyOf(FirstPage(target.chunk, target.geometry));
  const std::string last = KeyOf(LastPage(target.chunk, target.geometry));
  for (const rocksdb::SstFileMetaData& file : files.own) {
    if (file.smallestkey >= first && file.largestkey <= last) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(target.Name(), " cannot be repaired: ", file.db_path, file.name,
                     " holds other rows too; drop the version and load it again"));
  }
  if (!files.next_key.has_value()) return absl::OkStatus();
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  rocksdb::PinnableSlice value;
  const rocksdb::Status status =
      target.db().Get(options, target.family->handle(), *files.next_key, &value);
  if (status.ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      target.Name(), ": repair the chunk behind it first, it is damaged too: ", status.ToString()));
}

absl::Status Swap(const Target& target, const std::string& path) {
  const StoreInternals& internals = target.parts.core->internals();
  // A drive that gets full between the two steps would leave the pages missing.
  ENGRAM_RETURN_IF_ERROR(target.parts.core->CheckRoom("repairing " + target.Name()));
  ENGRAM_RETURN_IF_ERROR(CheckChunkFileEnds(*target.parts.core, path));
  MutexLock swapping(target.family->swap_mutex());
  const LiveFiles files = FindLiveFiles(target);
  ENGRAM_RETURN_IF_ERROR(CheckSwappable(target, files));
  for (const rocksdb::SstFileMetaData& file : files.own) {
    ENGRAM_RETURN_IF_ERROR(FromRocks(target.db().DeleteFile(file.name),
                                     absl::StrCat("taking ", file.db_path, file.name, " out")));
    internals.Step("damaged file out");
  }
  rocksdb::IngestExternalFileOptions options;
  options.move_files = true;
  options.write_global_seqno = false;
  ENGRAM_RETURN_IF_ERROR(
      FromRocks(target.db().IngestExternalFile(target.family->handle(), {path}, options),
                absl::StrCat("putting the repaired ", target.Name(), " in")));
  target.family->FilesChanged();
  internals.Step("repaired file in");
  return absl::OkStatus();
}

// RocksDB removes a file that was taken out when nobody reads from it any more and it looks for
// such files the next time. A look-up may have been reading at the swap, and the next time be a
// long way off; so it is told to look until the space is given back. What stays is removed by the
// next open.
void AwaitRemoval(const Target& target, const std::vector<rocksdb::SstFileMetaData>& replaced) {
  for (const rocksdb::SstFileMetaData& file : replaced) {
    std::error_code error;
    for (int i = 0; i < kRemovalTries && fs::exists(file.db_path + file.name, error); ++i) {
      if (i > 0) std::this_thread::sleep_for(kRemovalPause);
      const rocksdb::Status status = target.db().EnableFileDeletions(/*force=*/false);
      if (!status.ok()) return;
    }
  }
}

// A file of the staging folder has its last name only when it is whole, synced and right.
absl::Status MoveInPlace(rocksdb::FileSystem& files, const std::string& from,
                         const std::string& to) {
  ENGRAM_RETURN_IF_ERROR(FromRocks(files.RenameFile(from, to, rocksdb::IOOptions(), nullptr),
                                   absl::StrCat("renaming ", from)));
  return SyncDirectory(files, fs::path(to).parent_path().string());
}

// Removes what a repair of this chunk has left in the staging folder, and the folder with the last
// of it: another chunk's file there may be the only copy of its rows.
void RemoveStaged(const Target& target) {
  StoreCore& core = *target.parts.core;
  const std::string label = VersionLabel(target.version.name, target.version.version);
  const std::string path = ChunkFilePath(core, label, target.chunk);
  for (const std::string& file : {path, path + ".new"}) {
    core.files().DeleteFile(file, rocksdb::IOOptions(), nullptr).PermitUncheckedError();
  }
  std::error_code error;
  if (!fs::is_empty(core.StagingDirectory(label), error) || error) return;
  if (const absl::Status removed = core.RemoveStaging(label); !removed.ok()) {
    ENGRAM_LOG(kWarning) << removed.message() << "; the next start removes it";
  }
}

absl::Status WriteAndSwap(const Target& target, RowReader read, const std::atomic<bool>& cancelled,
                          std::atomic<uint64_t>& rows_written) {
  StoreCore& core = *target.parts.core;
  const std::string label = VersionLabel(target.version.name, target.version.version);
  ENGRAM_RETURN_IF_ERROR(MakeDirectory(core.files(), core.StagingDirectory(label)));
  const std::string path = ChunkFilePath(core, label, target.chunk);
  const std::string unchecked = path + ".new";
  ENGRAM_ASSIGN_OR_RETURN(const WrittenChunk written,
                          WriteChunkFile(core, unchecked, target.Name(), target.chunk,
                                         target.geometry, read, cancelled, rows_written));
  if (written.digest != target.chunk.digest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the checkpoint holds other rows than ", target.Name(), ": rows ", target.chunk.first,
        " to ", target.chunk.first + target.chunk.rows - 1, " have digest ", written.digest,
        " there, and were loaded with ", target.chunk.digest, "; they were left as they are"));
  }
  ENGRAM_RETURN_IF_ERROR(MoveInPlace(core.files(), unchecked, path));
  core.internals().Step("repaired file written");
  return Swap(target, path);
}

// Asks for a row of each: RocksDB reads properties without the index, and without comparing the
// file's id with the manifest's, but looks nothing up in a file that fails in either.
bool EveryFileOpens(rocksdb::DB& db, const ColumnFamily& family) {
  rocksdb::ColumnFamilyMetaData metadata;
  db.GetColumnFamilyMetaData(family.handle(), &metadata);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  for (const rocksdb::LevelMetaData& level : metadata.levels) {
    for (const rocksdb::SstFileMetaData& file : level.files) {
      rocksdb::PinnableSlice value;
      if (!db.Get(options, family.handle(), file.smallestkey, &value).ok()) return false;
    }
  }
  return true;
}

}  // namespace

absl::Status CheckOneChunkFile(const StoreParts& parts, const VersionName& version,
                               const Chunk& chunk) {
  ENGRAM_ASSIGN_OR_RETURN(const Target target, FindTarget(parts, version, chunk));
  const LiveFiles files = FindLiveFiles(target);
  if (files.own.empty()) return absl::DataLossError("no file holds these rows");
  uint64_t pages = 0;
  for (const rocksdb::SstFileMetaData& file : files.own) {
    const std::string path = file.db_path + file.name;
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (error) return absl::DataLossError(absl::StrCat(path, ": ", error.message()));
    if (size != file.size) {
      return absl::DataLossError(
          absl::StrCat(path, " has ", size, " bytes instead of ", file.size));
    }
    // Opened anew: reads footer, properties and index from the drive, each under its checksum.
    rocksdb::SstFileReader reader(parts.core->options());
    ENGRAM_RETURN_IF_ERROR(FromRocks(reader.Open(path), "opening " + path));
    pages += reader.GetTableProperties()->num_entries;
    // And by RocksDB, which knows whether it is the file that it wrote.
    rocksdb::PinnableSlice value;
    ENGRAM_RETURN_IF_ERROR(FromRocks(
        target.db().Get(rocksdb::ReadOptions(), target.family->handle(), file.smallestkey, &value),
        "a look-up in " + path));
  }
  const uint64_t expected = target.geometry.Pages(target.chunk.rows);
  if (pages == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(files.own.front().db_path, files.own.front().name,
                                          " holds ", pages, " pages instead of ", expected));
}

absl::Status RepairOneChunk(const StoreParts& parts, const VersionName& version, const Chunk& chunk,
                            RowReader read, const std::atomic<bool>& cancelled,
                            std::atomic<uint64_t>& rows_written) {
  ENGRAM_RETURN_IF_ERROR(parts.catalog->ClaimWriter(version));
  const absl::Cleanup release = [&] { parts.catalog->ReleaseWriter(version); };
  ENGRAM_ASSIGN_OR_RETURN(const Target target, FindTarget(parts, version, chunk));
  const LiveFiles before = FindLiveFiles(target);
  ENGRAM_RETURN_IF_ERROR(CheckSwappable(target, before));
  absl::Status status = WriteAndSwap(target, read, cancelled, rows_written);
  if (status.ok()) status = CheckOneChunkFile(parts, version, chunk);
  // Once the old file is out, the one in the staging folder is the only copy: should this process
  // not come to repair it again, the next open puts it in.
  if (!FindLiveFiles(target).own.empty()) RemoveStaged(target);
  ENGRAM_RETURN_IF_ERROR(status);
  AwaitRemoval(target, before.own);
  ForgetDamageIfWhole(parts);
  ENGRAM_LOG(kInfo) << target.Name() << " is repaired: rows " << chunk.first << " to "
                    << chunk.first + chunk.rows - 1;
  return absl::OkStatus();
}

bool FinishRepairs(const StoreParts& parts, const CatalogRecord& record) {
  bool finished = true;
  const VersionName version{record.table.spec.name, record.table.spec.version};
  const std::string label = VersionLabel(version.name, version.version);
  // From the last one: a file can only be put in when the one behind it can be read.
  for (auto chunk = record.table.chunks.rbegin(); chunk != record.table.chunks.rend(); ++chunk) {
    const std::string path = ChunkFilePath(*parts.core, label, *chunk);
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const absl::StatusOr<Target> target = FindTarget(parts, version, *chunk);
    if (target.ok() && !FindLiveFiles(*target).own.empty()) continue;
    const absl::Status status = target.ok() ? Swap(*target, path) : target.status();
    if (status.ok()) {
      ENGRAM_LOG(kInfo) << "finished an interrupted repair of " << target->Name();
    } else {
      finished = false;
      ENGRAM_LOG(kError) << "an interrupted repair, " << path
                         << ", cannot be finished: " << status.message()
                         << "; its rows fail until the next start, or until it is repaired again";
    }
  }
  return finished;
}

void ForgetDamageIfWhole(const StoreParts& parts) {
  if (!parts.core->damaged()) return;
  for (const std::string& name : parts.families->Names()) {
    const std::shared_ptr<ColumnFamily> family = parts.families->Find(name);
    if (family != nullptr && !EveryFileOpens(parts.core->db(), *family)) return;
  }
  parts.core->ForgetDamage();
}

}  // namespace engram
