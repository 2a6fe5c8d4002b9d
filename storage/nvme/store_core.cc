#include "storage/nvme/store_core.h"

#include <fcntl.h>
#include <malloc.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/table_properties.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/io_ring.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/nvme/directory.h"
#include "storage/nvme/page.h"
#include "storage/nvme/rocks_status.h"
#include "storage/nvme/settled.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxReadThreads = 256;

rocksdb::BlockBasedTableOptions TableOptions() {
  rocksdb::BlockBasedTableOptions table;
  // A block is closed as soon as it holds 4 KiB or would with the next page, and padded to a
  // multiple of 4 KiB: so every page is one aligned block, whatever its size.
  table.block_size = kPageAlignment;
  table.block_align = true;
  table.no_block_cache = true;
  table.checksum = rocksdb::kXXH3;
  table.format_version = 5;
  table.index_block_restart_interval = 16;  // halves the index: some 11 bytes a page in memory
  table.verify_compression = false;
  return table;
}

// The catalog, in the default column family, is small and written to again and again, so unlike the
// tables it is compacted.
std::vector<rocksdb::ColumnFamilyDescriptor> Descriptors(const std::vector<std::string>& names,
                                                         const rocksdb::Options& options) {
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (const std::string& name : names) {
    descriptors.emplace_back(name, options);
    if (name == rocksdb::kDefaultColumnFamilyName) {
      descriptors.back().options.disable_auto_compactions = false;
    }
  }
  return descriptors;
}

// RocksDB 7.8 goes on by itself some seconds after there is room again, but not well: it writes to
// the log that failed, or ingests files under the number 0, and answers both by abort(). Without
// that it refuses changes until the next start; see StoreCore::CheckRoom for how it seldom comes to
// that.
class NoRecoveryByItself final : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

// Whether the database has been made, so that its column families can be listed.
absl::StatusOr<bool> DatabaseExists(const std::string& directory) {
  std::error_code error;
  if (fs::exists(directory + "/CURRENT", error)) return true;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".sst") {
      return absl::DataLossError(
          absl::StrCat(directory, " holds SST files but no CURRENT; restore that file from a ",
                       "backup, or remove the directory and load the tables again"));
    }
  }
  if (error) return FromErrno(error.value(), "listing " + directory);
  return false;
}

}  // namespace

ColumnFamily::ColumnFamily(std::shared_ptr<StoreCore> core, rocksdb::ColumnFamilyHandle* handle)
    : core_(std::move(core)), handle_(handle) {}

ColumnFamily::~ColumnFamily() {
  const rocksdb::Status status = core_->db().DestroyColumnFamilyHandle(handle_);
  if (!status.ok()) ENGRAM_LOG(kError) << "closing a column family: " << status.ToString();
}

absl::StatusOr<uint64_t> ColumnFamily::CountEntries() const {
  rocksdb::TablePropertiesCollection files;
  const rocksdb::Status status = core_->db().GetPropertiesOfAllTables(handle_, &files);
  if (!status.ok()) return FromRocks(status, "counting the pages of " + handle_->GetName());
  uint64_t entries = 0;
  for (const auto& [file, properties] : files) entries += properties->num_entries;
  return entries;
}

uint64_t ColumnFamily::DiskBytes() const {
  rocksdb::ColumnFamilyMetaData metadata;
  core_->db().GetColumnFamilyMetaData(handle_, &metadata);
  return metadata.size;
}

std::shared_ptr<const PageFiles> ColumnFamily::OpenFiles(const PageGeometry& geometry,
                                                         uint64_t rows) const {
  return PageFiles::Open({.db = &core_->db(),
                          .family = handle_,
                          .file_system = &core_->files(),
                          .direct_io = core_->direct_io()},
                         geometry, rows);
}

std::shared_ptr<const PageFiles> ColumnFamily::Files(const PageGeometry& geometry, uint64_t rows) {
  MutexLock lock(mutex_);
  if (files_ == nullptr) {
    geometry_ = geometry;
    rows_ = rows;
    files_ = OpenFiles(geometry, rows);
  }
  return files_;
}

void ColumnFamily::FilesChanged() {
  PageGeometry geometry;
  uint64_t rows = 0;
  {
    MutexLock lock(mutex_);
    if (files_ == nullptr) return;
    geometry = geometry_;
    rows = rows_;
  }
  // Readers go on meanwhile with what they have.
  std::shared_ptr<const PageFiles> files = OpenFiles(geometry, rows);
  MutexLock lock(mutex_);
  files_.swap(files);
}

StoreCore::StoreCore(const StoreOptions& options, const StoreInternals& internals)
    : store_options_(options),
      internals_(internals),
      read_budget_(static_cast<unsigned>(std::clamp(options.read_depth, 1, kMaxReadDepth))),
      pool_(std::clamp(options.read_threads, 1, kMaxReadThreads)) {}

StoreCore::~StoreCore() {
  if (db_ == nullptr) return;
  if (default_family_ != nullptr) db_->DestroyColumnFamilyHandle(default_family_);
  const rocksdb::Status status = db_->Close();
  if (!status.ok()) ENGRAM_LOG(kError) << "closing " << db_directory() << ": " << status.ToString();
}

std::string StoreCore::db_directory() const { return store_options_.directory + "/db"; }
std::string StoreCore::load_directory() const { return store_options_.directory + "/load"; }

std::string StoreCore::StagingDirectory(absl::string_view version_label) const {
  return absl::StrCat(load_directory(), "/", version_label);
}

absl::Status StoreCore::RemoveStaging(absl::string_view version_label) {
  ENGRAM_RETURN_IF_ERROR(RemoveDirectory(*file_system_, StagingDirectory(version_label)));
  return SyncDirectory(*file_system_, load_directory());
}

absl::StatusOr<std::shared_ptr<StoreCore>> StoreCore::Open(const StoreOptions& options,
                                                           const StoreInternals& internals,
                                                           FamilyMap* families) {
  if (options.directory.empty()) {
    return absl::InvalidArgumentError("the data directory has no name; set data_dir");
  }
  const std::shared_ptr<StoreCore> core(new StoreCore(options, internals));
  core->ChooseFileSystem();
  ENGRAM_RETURN_IF_ERROR(core->PrepareDirectories());
  // A start, too, must go on on a full drive: without it nothing can be dropped.
  core->GiveUpReserve();
  ENGRAM_RETURN_IF_ERROR(core->ProbeIo());
  core->MakeOptions();
  ENGRAM_RETURN_IF_ERROR(core->CheckSettled());
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> names, core->ListFamilies());
  ENGRAM_RETURN_IF_ERROR(core->OpenDb(names, families));
  GiveBackFreedMemory();
  return core;
}

void StoreCore::GiveBackFreedMemory() { ::malloc_trim(0); }

absl::Status StoreCore::PrepareDirectories() {
  ENGRAM_RETURN_IF_ERROR(MakeDirectory(*file_system_, store_options_.directory));
  ENGRAM_RETURN_IF_ERROR(LockDirectory());
  ENGRAM_RETURN_IF_ERROR(MakeDirectory(*file_system_, db_directory()));
  return MakeDirectory(*file_system_, load_directory());
}

absl::Status StoreCore::LockDirectory() {
  const std::string path = store_options_.directory + "/LOCK";
  lock_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640));
  if (!lock_.valid()) return FromErrno(errno, "opening " + path);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return FromErrno(errno, "locking " + path);
    char holder[32] = {};
    const ssize_t length = ::pread(lock_.get(), holder, sizeof(holder) - 1, 0);
    return absl::FailedPreconditionError(
        absl::StrCat("data directory ", store_options_.directory, " is open in another engramd",
                     length > 0 ? absl::StrCat(" (process ", holder, ")") : "",
                     "; stop that one, or give this one a data directory of its own"));
  }
  // Only for the text above; the lock itself is the flock, which a killed process gives up.
  const std::string process = absl::StrCat(::getpid());
  if (::ftruncate(lock_.get(), 0) != 0 ||
      ::pwrite(lock_.get(), process.data(), process.size(), 0) < 0) {
    return FromErrno(errno, "writing " + path);
  }
  return absl::OkStatus();
}

void StoreCore::ChooseFileSystem() {
  io_note_ = "pread (io_uring turned off)";
  if (store_options_.use_io_uring) {
    const absl::Status uring = ProbeIoUring();
    ring_io_ = uring.ok();
    io_note_ =
        ring_io_ ? "io_uring" : absl::StrCat("pread (io_uring refused: ", uring.message(), ")");
  }
  file_system_ = NewUringFileSystem(rocksdb::FileSystem::Default(), ring_io_, &uring_counters_);
  if (internals_.wrap) file_system_ = internals_.wrap(std::move(file_system_));
  env_ = rocksdb::NewCompositeEnv(file_system_);
}

absl::Status StoreCore::ProbeIo() {
  std::string path = "buffered I/O (direct I/O turned off)";
  if (store_options_.use_direct_io) {
    const absl::Status direct = ProbeDirectIo(db_directory());
    if (absl::IsResourceExhausted(direct)) return direct;
    direct_io_ = direct.ok();
    path = direct_io_ ? "direct I/O"
                      : absl::StrCat("buffered I/O (O_DIRECT refused: ", direct.message(), ")");
  }
  absl::StrAppend(&io_note_, ", ", path);
  return absl::OkStatus();
}

std::string StoreCore::Describe() const {
  std::string text = io_note_;
  const uint64_t fallbacks = uring_counters_.fallback_reads.load(std::memory_order_relaxed);
  if (fallbacks > 0) absl::StrAppend(&text, "; ", fallbacks, " reads fell back to pread");
  MutexLock lock(damage_mutex_);
  if (!damage_.empty()) absl::StrAppend(&text, "; damaged: ", damage_);
  return text;
}

bool StoreCore::damaged() const {
  MutexLock lock(damage_mutex_);
  return !damage_.empty();
}

void StoreCore::ForgetDamage() {
  MutexLock lock(damage_mutex_);
  if (damage_.empty()) return;
  damage_.clear();
  ENGRAM_LOG(kInfo) << db_directory() << " is whole again: every file opens";
}

void StoreCore::MakeOptions() {
  auto options = std::make_unique<rocksdb::Options>();
  options->env = env_.get();
  options->create_if_missing = true;
  options->use_direct_reads = direct_io_;
  // A record cut short at the log's end is a crash in mid-write; anything else is damage, and the
  // catalog is not to be opened without what follows it.
  options->wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options->max_open_files = -1;  // every footer is read at open, every index stays in memory
  options->skip_stats_update_on_db_open = true;
  options->disable_auto_compactions = true;  // ingested files are final
  options->compression = rocksdb::kNoCompression;
  // Only the catalog writes here, a few records at a time.
  options->write_buffer_size = size_t{1} << 20;
  options->max_manifest_file_size = uint64_t{16} << 20;
  options->table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions()));
  // Whoever lets go of a dropped version last may be answering a request: files are then removed
  // on RocksDB's own thread.
  options->avoid_unnecessary_blocking_io = true;
  options->info_log_level = rocksdb::WARN_LEVEL;
  options->max_log_file_size = size_t{1} << 20;
  options->keep_log_file_num = 4;
  options->stats_dump_period_sec = 0;
  options->stats_persist_period_sec = 0;
  options->listeners.push_back(std::make_shared<NoRecoveryByItself>());
  options_ = std::move(options);
}

std::string StoreCore::settled_file() const { return store_options_.directory + "/settled"; }

void StoreCore::NoteSettled() {
  const absl::Status status =
      WriteSettled(*file_system_, settled_file(), db_->GetLatestSequenceNumber());
  // The former number stays, which asks for less.
  if (!status.ok()) ENGRAM_LOG(kWarning) << status.message();
}

absl::StatusOr<uint64_t> StoreCore::CatalogSequence(const rocksdb::Options& options) const {
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(
      options, db_directory(), Descriptors({rocksdb::kDefaultColumnFamilyName}, options), &handles,
      &db);
  if (!status.ok()) return FromRocks(status, "opening " + db_directory());
  const std::unique_ptr<rocksdb::DB> closer(db);
  for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  return db->GetLatestSequenceNumber();
}

absl::Status StoreCore::CheckSettled() const {
  const std::optional<uint64_t> settled = ReadSettled(settled_file());
  if (!settled.has_value()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(db_directory()));
  uint64_t sequence = 0;
  if (exists) {
    rocksdb::Options options = *options_;
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
    const absl::StatusOr<uint64_t> found = CatalogSequence(options);
    if (!found.ok()) return absl::OkStatus();  // what ails it is found when it is opened
    sequence = *found;
  }
  if (sequence >= *settled) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      db_directory(), " has lost publications, switches or drops that were acknowledged (it is at ",
      "change ", sequence, " of ", *settled, "): its MANIFEST or CURRENT is damaged or from an ",
      "older copy. Nothing was opened or removed; restore ", store_options_.directory,
      " from a backup, or remove it and load the tables again"));
}

absl::StatusOr<std::vector<std::string>> StoreCore::ListFamilies() const {
  ENGRAM_ASSIGN_OR_RETURN(const bool exists, DatabaseExists(db_directory()));
  std::vector<std::string> names;
  if (exists) {
    const rocksdb::Status status =
        rocksdb::DB::ListColumnFamilies(*options_, db_directory(), &names);
    if (!status.ok()) return FromRocks(status, "opening " + db_directory());
  } else {
    names.push_back(rocksdb::kDefaultColumnFamilyName);
  }
  return names;
}

absl::Status StoreCore::OpenDb(const std::vector<std::string>& names, FamilyMap* families) {
  const std::vector<rocksdb::ColumnFamilyDescriptor> descriptors = Descriptors(names, *options_);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(*options_, db_directory(), descriptors, &handles, &db);
  if (status.ok()) {
    db_.reset(db);
  } else if (status.IsCorruption() && OpenWithTornLog(names, &handles)) {
    ENGRAM_LOG(kWarning) << "the end of RocksDB's log is torn, as by a power cut ("
                         << status.ToString()
                         << "); loads that were under way may begin further back";
  } else {
    if (!status.IsCorruption() && !status.IsIOError()) {
      return FromRocks(status, "opening " + db_directory());
    }
    const absl::Status first = FromRocks(status, "opening " + db_directory());
    if (!OpenDamagedDb(names, &handles).ok()) return first;
    std::string damage = status.ToString();
    std::replace(damage.begin(), damage.end(), '\n', ' ');
    ENGRAM_LOG(kError) << db_directory() << " is damaged: " << damage
                       << "; rows of those files may fail, all others are served. Repair the table "
                          "with `engramctl load NAME --checkpoint DIR --repair`.";
    MutexLock lock(damage_mutex_);
    damage_ = std::move(damage);
  }
  for (rocksdb::ColumnFamilyHandle* handle : handles) {
    if (handle->GetName() == rocksdb::kDefaultColumnFamilyName) {
      default_family_ = handle;
    } else {
      (*families)[handle->GetName()] = std::make_shared<ColumnFamily>(shared_from_this(), handle);
    }
  }
  TakeReserve();
  return absl::OkStatus();
}

bool StoreCore::OpenWithTornLog(const std::vector<std::string>& names,
                                std::vector<rocksdb::ColumnFamilyHandle*>* handles) {
  rocksdb::Options options = *options_;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(options, db_directory(), Descriptors(names, options), handles, &db);
  if (status.ok()) db_.reset(db);
  return status.ok();
}

absl::Status StoreCore::OpenDamagedDb(const std::vector<std::string>& names,
                                      std::vector<rocksdb::ColumnFamilyHandle*>* handles) {
  // Without paranoid_checks RocksDB opens although an SST file is missing or unreadable, and reads
  // of it fail one by one. But it also skips damaged records of its log, and the log is where the
  // catalog lies: so first open the catalog alone, read-only, with every check on. If that fails,
  // the catalog itself is damaged and nothing is opened.
  ENGRAM_RETURN_IF_ERROR(CatalogSequence(*options_).status());
  rocksdb::Options lenient = *options_;
  lenient.paranoid_checks = false;
  const std::vector<rocksdb::ColumnFamilyDescriptor> descriptors = Descriptors(names, lenient);
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(lenient, db_directory(), descriptors, handles, &db);
  if (!status.ok()) return FromRocks(status, "opening " + db_directory());
  db_.reset(db);
  return absl::OkStatus();
}

absl::Status StoreCore::CheckRoom(absl::string_view what) const {
  uint64_t room = 0;
  const rocksdb::IOStatus status =
      file_system_->GetFreeSpace(db_directory(), rocksdb::IOOptions(), &room, nullptr);
  if (!status.ok() || room >= internals_.headroom_bytes) return absl::OkStatus();
  return FromErrno(ENOSPC, absl::StrCat(what, ": only ", FormatSize(room), " left"));
}

std::string StoreCore::reserve_file() const { return store_options_.directory + "/reserve"; }

void StoreCore::TakeReserve() {
  const uint64_t bytes = internals_.headroom_bytes / 2;
  struct stat info {};
  const bool held = ::stat(reserve_file().c_str(), &info) == 0 &&
                    static_cast<uint64_t>(info.st_blocks) * 512 >= bytes;
  if (held || !CheckRoom("").ok()) return;
  if (const absl::Status status = Reserve(*file_system_, reserve_file(), bytes); !status.ok()) {
    ENGRAM_LOG(kWarning) << status.message() << "; on a full drive nothing can be dropped";
  }
}

void StoreCore::GiveUpReserve() {
  if (CheckRoom("").ok()) return;
  file_system_->DeleteFile(reserve_file(), rocksdb::IOOptions(), nullptr).PermitUncheckedError();
}

absl::StatusOr<std::shared_ptr<ColumnFamily>> StoreCore::CreateFamily(const std::string& name) {
  rocksdb::ColumnFamilyHandle* handle = nullptr;
  const rocksdb::Status status = db_->CreateColumnFamily(*options_, name, &handle);
  if (!status.ok()) return FromRocks(status, "making column family " + name);
  return std::make_shared<ColumnFamily>(shared_from_this(), handle);
}

absl::Status StoreCore::DropFamily(ColumnFamily& family) {
  return FromRocks(db_->DropColumnFamily(family.handle()),
                   "dropping column family " + family.handle()->GetName());
}

}  // namespace engram
