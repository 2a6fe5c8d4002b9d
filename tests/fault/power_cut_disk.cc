#include "tests/fault/power_cut_disk.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "tests/fault/power_cut_file_system.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using rocksdb::IOStatus;

constexpr uint64_t kSector = 512;
constexpr uint64_t kPage = 4096;
constexpr PowerCutDisk::FileId kRoot = 1;

std::string ReadWhole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string Parent(const std::string& path) { return fs::path(path).parent_path().string(); }
std::string Name(const std::string& path) { return fs::path(path).filename().string(); }

// RocksDB's lock file and text log do not go through the file system; nothing depends on them.
bool IsAccountable(const std::string& name) { return name.rfind("LO", 0) != 0; }

// RocksDB refuses a MANIFEST whose last record has other bytes than were written (DataLoss; nothing
// is removed), so of that file only a prefix is kept: a drive writes single sectors wholly or not
// at all, and the record of a publication seldom has more than a few.
bool IsManifest(const std::string& path) { return Name(path).rfind("MANIFEST", 0) == 0; }

// What a power cut does to the bytes from `from` on, none of which were synced.
void Damage(std::string& bytes, uint64_t from, std::mt19937_64& random) {
  if (bytes.size() <= from) return;
  const uint64_t style = random() % 4;
  if (style == 1) {  // pages that were written later than others were not written at all
    for (uint64_t page = from / kPage; page * kPage < bytes.size(); ++page) {
      if (random() % 2 == 0) continue;
      const uint64_t begin = std::max(from, page * kPage);
      const uint64_t end = std::min<uint64_t>(bytes.size(), (page + 1) * kPage);
      std::memset(bytes.data() + begin, 0, end - begin);
    }
  } else if (style == 2) {  // a torn sector at the end
    const uint64_t begin = std::max<uint64_t>(from, (bytes.size() - 1) / kSector * kSector);
    for (uint64_t i = begin; i < bytes.size(); ++i) bytes[i] = static_cast<char>(random());
  }
}

}  // namespace

PowerCutDisk::PowerCutDisk(const std::string& directory)
    : root_(directory + "/disk"), attic_(directory + "/attic") {
  fs::create_directories(root_);
  fs::create_directories(attic_);
  directories_[next_id_++];  // the root, kRoot
  for (const auto& entry : fs::recursive_directory_iterator(root_)) {
    const std::string path = entry.path().string();
    if (entry.is_directory()) {
      MadeDirectory(path);
    } else {
      FindFile(path);
    }
  }
  for (auto& [id, directory] : directories_) {
    directory.durable = directory.live;
    directory.pending.clear();
  }
}

StoreInternals PowerCutDisk::Internals(StoreInternals internals) {
  internals.wrap = [this](std::shared_ptr<rocksdb::FileSystem> base) {
    return NewPowerCutFileSystem(std::move(base), this);
  };
  return internals;
}

void PowerCutDisk::CutAt(uint64_t change, bool late) {
  MutexLock lock(mutex_);
  cut_at_ = change;
  late_ = late;
}

std::string PowerCutDisk::cut_point() const {
  MutexLock lock(mutex_);
  return cut_point_;
}

void PowerCutDisk::SwallowSyncs(std::function<bool(const std::string& path)> which) {
  MutexLock lock(mutex_);
  swallow_ = std::move(which);
}

IOStatus PowerCutDisk::Gone(const std::string& path) const {
  return cut() ? IOStatus::IOError("the power is cut: " + path) : IOStatus::OK();
}

IOStatus PowerCutDisk::Change(const char* what, const std::string& path,
                              const std::function<IOStatus()>& operation) {
  MutexLock lock(mutex_);
  if (cut()) return Gone(path);
  if (changes_.fetch_add(1) + 1 != cut_at_) return operation();
  cut_point_ = std::string(what) + " " + path.substr(std::min(path.size(), root_.size()));
  if (late_) {
    cut_point_ += " (done)";
    operation().PermitUncheckedError();
  }
  cut_ = true;
  return Gone(path);
}

bool PowerCutDisk::OnDrive(const std::string& path) const {
  return path == root_ || path.rfind(root_ + "/", 0) == 0;
}

std::string PowerCutDisk::AtticPath(FileId id) const { return attic_ + "/" + std::to_string(id); }

PowerCutDisk::Directory* PowerCutDisk::FindDirectory(const std::string& path) {
  if (!OnDrive(path)) return nullptr;
  if (path == root_) return &directories_[kRoot];
  Directory* parent = FindDirectory(Parent(path));
  if (parent == nullptr) return nullptr;
  const auto found = parent->live.find(Name(path));
  if (found == parent->live.end()) return nullptr;
  const auto directory = directories_.find(found->second);
  return directory == directories_.end() ? nullptr : &directory->second;
}

PowerCutDisk::FileId PowerCutDisk::Adopt(const std::string& path) {
  const FileId id = next_id_++;
  fs::create_hard_link(path, AtticPath(id));
  const uint64_t size = fs::file_size(path);
  files_[id] = {size, size, {}};
  return id;
}

PowerCutDisk::FileId PowerCutDisk::FindFile(const std::string& path) {
  Directory* directory = FindDirectory(Parent(path));
  if (directory == nullptr) return 0;
  const auto found = directory->live.find(Name(path));
  if (found != directory->live.end()) return found->second;
  if (!IsAccountable(Name(path)) || !fs::is_regular_file(path)) return 0;
  const FileId id = Adopt(path);
  Enter(path, id);
  return id;
}

void PowerCutDisk::Enter(const std::string& path, FileId id) {
  Directory* directory = FindDirectory(Parent(path));
  if (directory == nullptr) return;
  directory->live[Name(path)] = id;
  directory->pending.push_back({"", Name(path), id});
}

PowerCutDisk::FileId PowerCutDisk::Made(const std::string& path) {
  Directory* directory = FindDirectory(Parent(path));
  if (directory == nullptr) return 0;
  // A file that was there has been emptied, and is the same file still; see WillTruncate.
  if (const auto found = directory->live.find(Name(path)); found != directory->live.end()) {
    return found->second;
  }
  const FileId id = Adopt(path);
  files_[id] = {};
  Enter(path, id);
  return id;
}

PowerCutDisk::FileId PowerCutDisk::Opened(const std::string& path) { return FindFile(path); }

void PowerCutDisk::WillTruncate(const std::string& path, uint64_t size) {
  if (!fs::exists(path)) return;
  const FileId id = FindFile(path);
  if (id == 0) return;
  File& file = files_[id];
  if (file.before.empty() && size < file.synced) {
    file.before = ReadWhole(AtticPath(id)).substr(0, file.synced);
  }
  file.size = size;
  file.synced = std::min(file.synced, size);
}

void PowerCutDisk::Wrote(FileId id, uint64_t offset, uint64_t bytes) {
  if (id == 0) return;
  File& file = files_[id];
  file.size = std::max(file.size, offset + bytes);
}

void PowerCutDisk::Appended(FileId id, uint64_t bytes) {
  if (id != 0) files_[id].size += bytes;
}

void PowerCutDisk::FileSynced(FileId id, const std::string& path) {
  if (id == 0 || (swallow_ && swallow_(path))) return;
  File& file = files_[id];
  file.synced = file.size;
  file.before.clear();
}

void PowerCutDisk::MadeDirectory(const std::string& path) {
  Directory* parent = FindDirectory(Parent(path));
  if (parent == nullptr || parent->live.contains(Name(path))) return;
  const FileId id = next_id_++;
  directories_[id];
  Enter(path, id);
}

void PowerCutDisk::DirectorySynced(const std::string& path) {
  Directory* directory = FindDirectory(path);
  if (directory == nullptr || (swallow_ && swallow_(path))) return;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.is_regular_file()) FindFile(entry.path().string());
  }
  directory->durable = directory->live;
  directory->pending.clear();
}

void PowerCutDisk::Linked(const std::string& from, const std::string& to) {
  if (const FileId id = FindFile(from); id != 0) Enter(to, id);
}

void PowerCutDisk::Renamed(const std::string& from, const std::string& to) {
  Directory* directory = FindDirectory(Parent(from));
  if (directory == nullptr) return;
  const auto found = directory->live.find(Name(from));
  if (found == directory->live.end()) return;
  if (Parent(from) != Parent(to)) throw std::logic_error("a rename across directories: " + to);
  const FileId id = found->second;
  directory->live.erase(found);
  directory->live[Name(to)] = id;
  directory->pending.push_back({Name(from), Name(to), id});
}

void PowerCutDisk::Removed(const std::string& path) {
  Directory* directory = FindDirectory(Parent(path));
  if (directory == nullptr || directory->live.erase(Name(path)) == 0) return;
  directory->pending.push_back({Name(path), "", 0});
}

void PowerCutDisk::Recover(const std::string& target, uint64_t seed) {
  MutexLock lock(mutex_);
  std::mt19937_64 random(seed);
  std::map<FileId, std::string> written;
  RecoverDirectory(kRoot, target, random, written);
}

void PowerCutDisk::RecoverDirectory(FileId id, const std::string& target, std::mt19937_64& random,
                                    std::map<FileId, std::string>& written) const {
  fs::create_directory(target);
  const Directory& directory = directories_.at(id);
  std::map<std::string, FileId> entries = directory.durable;
  uint64_t kept = random() % 2 == 0 ? 0 : random() % (directory.pending.size() + 1);
  for (const EntryChange& change : directory.pending) {
    if (kept-- == 0) break;
    if (!change.removed.empty()) entries.erase(change.removed);
    if (!change.added.empty()) entries[change.added] = change.id;
  }
  for (const auto& [name, child] : entries) {
    const std::string path = target + "/" + name;
    if (directories_.contains(child)) {
      RecoverDirectory(child, path, random, written);
    } else if (const auto other = written.find(child); other != written.end()) {
      fs::create_hard_link(other->second, path);
    } else {
      RecoverFile(child, path, random);
      written[child] = path;
    }
  }
}

void PowerCutDisk::RecoverFile(FileId id, const std::string& target,
                               std::mt19937_64& random) const {
  const File& file = files_.at(id);
  std::string bytes;
  if (!file.before.empty() && random() % 2 == 0) {
    bytes = file.before;
  } else {
    bytes = ReadWhole(AtticPath(id));
    if (bytes.size() < file.size) throw std::logic_error("the account of " + target + " is wrong");
    const uint64_t unsynced = file.size - file.synced;
    const uint64_t choice = random() % 4;
    const uint64_t kept = choice == 0 ? 0 : choice == 1 ? unsynced : random() % (unsynced + 1);
    bytes.resize(file.synced + kept);
    if (!IsManifest(target)) Damage(bytes, file.synced, random);
  }
  std::ofstream out(target, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + target);
}

}  // namespace engram
