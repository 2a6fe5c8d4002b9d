#include "storage/dram/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/base/log.h"
#include "storage/base/numa.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // Linux 6.1
#endif

namespace engram {
namespace {

using dram::kHugePageBytes;
using dram::SegmentHeader;

constexpr char kControlName[] = "control";
constexpr char kSegmentPrefix[] = "segment-";

std::string ErrorText(int error) { return std::strerror(error); }

bool SameLayer(const SegmentHeader& a, const SegmentHeader& b) {
  return a.row_bytes == b.row_bytes && a.layer == b.layer && a.layer_rows == b.layer_rows &&
         a.page_bytes == b.page_bytes &&
         std::memcmp(a.table_digest, b.table_digest, sizeof(a.table_digest)) == 0;
}

}  // namespace

absl::Status Segment::Map(int fd, uint64_t bytes) {
  map_ = AlignedMap::Map(fd, bytes, PROT_READ | PROT_WRITE);
  if (map_.valid()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("cannot map ", bytes,
                                                   " bytes for the DRAM tier: ", ErrorText(errno),
                                                   "; lower the dram budget"));
}

// Anonymous memory gets huge pages as it is touched, where the administrator allows it. A tmpfs
// gives none by default, but MADV_COLLAPSE makes one of any 2 MiB that have a page: so the first
// page of each is allocated before, and the rest of what could not be collapsed afterwards.
void Segment::AskForHugePages(int fd) {
  const uint64_t whole = bytes() / kHugePageBytes * kHugePageBytes;
  if (whole == 0 || ::madvise(data(), whole, MADV_HUGEPAGE) != 0) return;
  if (fd < 0) {
    huge_bytes_ = whole;
    return;
  }
  for (uint64_t at = 0; at < whole; at += kHugePageBytes) {
    if (::fallocate(fd, 0, static_cast<off_t>(at), dram::kPageBytes) != 0) return;
    if (::madvise(data() + at, kHugePageBytes, MADV_COLLAPSE) != 0) return;
    huge_bytes_ += kHugePageBytes;
  }
}

void Segment::Discard() {
  if (name_.empty()) return;
  ::unlinkat(directory_fd_, name_.c_str(), 0);
  // Clients that have it mapped would keep the memory for as long as they like.
  if (::madvise(data(), bytes(), MADV_REMOVE) != 0) {
    ENGRAM_LOG(kWarning) << "a DRAM segment of " << FormatSize(bytes())
                         << " is given back only when its last client lets go of it: "
                         << ErrorText(errno);
  }
  name_.clear();
}

std::unique_ptr<SegmentStore> SegmentStore::Anonymous() {
  std::unique_ptr<SegmentStore> store(new SegmentStore());
  void* const page = ::mmap(nullptr, dram::kControlBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::bad_alloc();
  store->control_ = static_cast<dram::ControlPage*>(page);
  store->control_->magic = dram::kControlMagic;
  store->control_->generation = 1;
  store->ChooseNodes();
  return store;
}

// Says in the description what came of it, where there is anything to say.
void SegmentStore::ChooseNodes() {
  const absl::StatusOr<std::vector<int>> nodes = MemoryNodes();
  if (!nodes.ok()) {
    // Where the kernel has one node there is nothing to miss.
    if (::access("/sys/devices/system/node/node1", F_OK) == 0) {
      absl::StrAppend(&description_, ", NUMA nodes not chosen: ", nodes.status().message());
    }
    return;
  }
  if (nodes->size() < 2) return;
  if (HasMemoryPolicy()) {
    absl::StrAppend(&description_, ", NUMA nodes by the process' own policy");
    return;
  }
  nodes_ = *nodes;
  absl::StrAppend(&description_, ", spread over NUMA nodes ", absl::StrJoin(nodes_, " "));
}

absl::StatusOr<std::unique_ptr<SegmentStore>> SegmentStore::Open(const std::string& parent,
                                                                 const std::string& name) {
  std::unique_ptr<SegmentStore> store(new SegmentStore());
  ENGRAM_RETURN_IF_ERROR(store->OpenDirectory(parent, name));
  store->RetireControlPage();
  ENGRAM_RETURN_IF_ERROR(store->MakeControlPage());
  store->ChooseNodes();
  store->FindLeftovers();
  return store;
}

SegmentStore::~SegmentStore() {
  // What was left over once is for the next daemon to judge.
  if (control_ != nullptr) {
    // Clients must not go on with a daemon that is gone.
    if (shared()) {
      RetireControlPage();
      ::rmdir(path_.c_str());  // only if nothing is left in it
    }
    ::munmap(control_, std::max(dram::kControlBytes, page_bytes_));
  }
}

absl::Status SegmentStore::OpenDirectory(const std::string& parent, const std::string& name) {
  parent_ = parent;
  path_ = absl::StrCat(parent, "/", name);
  struct statfs kind {};
  if (::statfs(parent.c_str(), &kind) != 0) {
    return absl::NotFoundError(absl::StrCat("shm_dir ", parent, ": ", ErrorText(errno),
                                            "; mount a tmpfs or hugetlbfs there, or set shm_dir"));
  }
  huge_file_system_ = static_cast<uint64_t>(kind.f_type) == HUGETLBFS_MAGIC;
  if (!huge_file_system_ && static_cast<uint64_t>(kind.f_type) != TMPFS_MAGIC) {
    return absl::FailedPreconditionError(
        absl::StrCat("shm_dir ", parent,
                     " is neither a tmpfs nor a hugetlbfs: rows would be written to a "
                     "drive; give a directory in memory, such as /dev/shm"));
  }
  if (::mkdir(path_.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot make ", path_, ": ", ErrorText(errno),
                     "; give a shm_dir that engramd's user may write to"));
  }
  directory_fd_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat found {};
  if (!directory_fd_.valid() || ::fstat(directory_fd_.get(), &found) != 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot open ", path_, ": ", ErrorText(errno)));
  }
  // /dev/shm is everybody's: whoever makes this directory first could read and change all rows.
  if (found.st_uid != ::geteuid() || (found.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, " belongs to user ", found.st_uid, " with mode ", absl::Hex(found.st_mode & 07777),
        "h, not to engramd's user ", ::geteuid(), " alone; remove it, or set shm_dir"));
  }
  if (huge_file_system_) page_bytes_ = static_cast<uint64_t>(kind.f_bsize);
  description_ = huge_file_system_
                     ? absl::StrCat("hugetlbfs ", parent, " (", FormatSize(page_bytes_), " pages)")
                     : absl::StrCat("tmpfs ", parent);
  return absl::OkStatus();
}

// The page that an earlier daemon (or this one, at its end) has shown to its clients.
void SegmentStore::RetireControlPage() {
  const UniqueFd file(::openat(directory_fd_.get(), kControlName, O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  struct stat found {};
  if (!file.valid() || ::fstat(file.get(), &found) != 0) return;
  if (static_cast<uint64_t>(found.st_size) >= dram::kControlBytes) {
    const auto bytes = static_cast<size_t>(found.st_size);
    void* const page = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (page != MAP_FAILED) {
      auto* const control = static_cast<dram::ControlPage*>(page);
      // Release, and a fence: memory is given up, or written to, only afterwards.
      std::atomic_ref<uint64_t>(control->generation)
          .store(dram::kRetired, std::memory_order_release);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      ::munmap(page, bytes);
    }
  }
  ::unlinkat(directory_fd_.get(), kControlName, 0);
}

absl::Status SegmentStore::MakeControlPage() {
  const uint64_t bytes = std::max(dram::kControlBytes, page_bytes_);
  const UniqueFd file(::openat(directory_fd_.get(), kControlName,
                               O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot make ", path_, "/", kControlName, ": ", ErrorText(errno)));
  }
  if (const int error = ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0
                            ? errno
                            : ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
      error != 0) {
    return NoSpace(bytes, error);
  }
  void* const page = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (page == MAP_FAILED) return NoSpace(bytes, errno);
  control_ = static_cast<dram::ControlPage*>(page);
  control_->magic = dram::kControlMagic;
  control_->generation = 1;
  control_share_fd_ =
      UniqueFd(::openat(directory_fd_.get(), kControlName, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  return absl::OkStatus();
}

void SegmentStore::Advance() {
  // Release, and a fence: what is given up next is given up after this, for every client.
  std::atomic_ref<uint64_t>(control_->generation).fetch_add(1, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

uint64_t SegmentStore::FreeBytes() const {
  if (!shared()) return std::numeric_limits<uint64_t>::max();
  struct statvfs space {};
  if (::fstatvfs(directory_fd_.get(), &space) != 0) return 0;
  // One without a limit says 0 blocks.
  const uint64_t here = space.f_blocks == 0 ? std::numeric_limits<uint64_t>::max()
                                            : uint64_t{space.f_bavail} * space.f_frsize;
  if (!huge_file_system_) return here;
  std::ifstream file(
      absl::StrCat("/sys/kernel/mm/hugepages/hugepages-", page_bytes_ >> 10, "kB/free_hugepages"));
  uint64_t pages = 0;
  file >> pages;
  return std::min(here, pages * page_bytes_);
}

absl::Status SegmentStore::NoSpace(uint64_t bytes, int error) const {
  return absl::ResourceExhaustedError(absl::StrCat(
      "no ", FormatSize(bytes), " for the DRAM tier in ", parent_, " (", FormatSize(FreeBytes()),
      " free): ", ErrorText(error), "; ",
      huge_file_system_
          ? "reserve more huge pages (vm.nr_hugepages)"
          : "mount a larger one (`mount -o remount,size=… " + parent_ + "`; Docker: --shm-size)",
      ", set shm_dir, or lower the dram budget"));
}

absl::StatusOr<std::shared_ptr<Segment>> SegmentStore::Create(SegmentHeader header,
                                                              uint64_t bytes) {
  std::shared_ptr<Segment> segment(new Segment());
  UniqueFd file;
  {
    MutexLock lock(mutex_);
    segment->id_ = next_id_++;
    std::erase_if(by_id_, [](const auto& entry) { return entry.second.expired(); });
  }
  if (shared()) {
    if (FreeBytes() < bytes) return NoSpace(bytes, ENOSPC);
    // An adopted segment has kept its name from an earlier count.
    segment->directory_fd_ = directory_fd_.get();
    for (uint64_t number = segment->id_; !file.valid(); ++number) {
      segment->name_ = absl::StrCat(kSegmentPrefix, number);
      file = UniqueFd(::openat(directory_fd_.get(), segment->name_.c_str(),
                               O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (!file.valid() && errno != EEXIST) {
        return absl::ResourceExhaustedError(
            absl::StrCat("cannot make ", path_, "/", segment->name_, ": ", ErrorText(errno)));
      }
    }
    if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
      const int error = errno;
      ::unlinkat(directory_fd_.get(), segment->name_.c_str(), 0);
      return NoSpace(bytes, error);
    }
  }
  absl::Status status = segment->Map(file.get(), bytes);
  // Before anything of it is allocated.
  if (status.ok() && !nodes_.empty()) {
    PreferNode(segment->data(), bytes, nodes_[segment->id_ % nodes_.size()]);
  }
  if (status.ok() && !huge_file_system_) segment->AskForHugePages(file.get());
  if (huge_file_system_) segment->huge_bytes_ = bytes;
  if (status.ok() && shared()) {
    const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
    if (error != 0) status = NoSpace(bytes, error);
    segment->share_fd_ = UniqueFd(
        ::openat(directory_fd_.get(), segment->name_.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (status.ok() && !segment->share_fd_.valid()) {
      status = absl::ResourceExhaustedError(
          absl::StrCat("cannot open ", path_, "/", segment->name_, ": ", ErrorText(errno)));
    }
  }
  if (!status.ok()) {
    if (shared()) ::unlinkat(directory_fd_.get(), segment->name_.c_str(), 0);
    return status;
  }
  header.magic = dram::kSegmentMagic;
  header.layout_version = dram::kLayoutVersion;
  header.checksum = dram::HeaderChecksum(header);
  *reinterpret_cast<SegmentHeader*>(segment->data()) = header;
  if (!nodes_.empty()) segment->node_ = NodeOf(segment->data());
  MutexLock lock(mutex_);
  by_id_[segment->id_] = segment;
  return segment;
}

std::shared_ptr<Segment> SegmentStore::Find(uint64_t id) const {
  MutexLock lock(mutex_);
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second.lock();
}

UniqueFd SegmentStore::OpenWritable(uint64_t id) const {
  std::string file = kControlName;
  if (id != dram::kControlPageId) {
    const std::shared_ptr<Segment> segment = Find(id);
    file = segment == nullptr ? "" : segment->name_;
  }
  if (file.empty() || !shared()) return UniqueFd();
  return UniqueFd(::openat(directory_fd_.get(), file.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
}

std::shared_ptr<Segment> SegmentStore::OpenLeftover(const std::string& file) {
  const UniqueFd fd(::openat(directory_fd_.get(), file.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  struct stat found {};
  if (!fd.valid() || ::fstat(fd.get(), &found) != 0 || !S_ISREG(found.st_mode)) return nullptr;
  const auto bytes = static_cast<uint64_t>(found.st_size);
  if (bytes < dram::kHeaderBytes || bytes % page_bytes_ != 0) return nullptr;
  SegmentHeader header{};
  if (::pread(fd.get(), &header, sizeof(header), 0) != sizeof(header) ||
      header.magic != dram::kSegmentMagic || header.layout_version != dram::kLayoutVersion ||
      header.checksum != dram::HeaderChecksum(header)) {
    return nullptr;
  }
  std::shared_ptr<Segment> segment(new Segment());
  segment->directory_fd_ = directory_fd_.get();
  segment->share_fd_ =
      UniqueFd(::openat(directory_fd_.get(), file.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!segment->share_fd_.valid() || !segment->Map(fd.get(), bytes).ok()) {
    return nullptr;
  }
  segment->name_ = file;
  // A file that was cut short would have holes, or kill its readers.
  if (uint64_t{static_cast<uint64_t>(found.st_blocks)} * 512 < segment->bytes()) return nullptr;
  segment->huge_bytes_ = huge_file_system_ ? segment->bytes() : 0;
  if (!nodes_.empty()) segment->node_ = NodeOf(segment->data());
  return segment;
}

void SegmentStore::FindLeftovers() {
  const int listed = ::openat(directory_fd_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const directory = listed < 0 ? nullptr : ::fdopendir(listed);
  if (directory == nullptr) return;
  std::vector<std::string> files;
  while (const dirent* entry = ::readdir(directory)) {
    if (absl::StartsWith(entry->d_name, kSegmentPrefix)) files.emplace_back(entry->d_name);
  }
  ::closedir(directory);
  MutexLock lock(mutex_);
  for (const std::string& file : files) {
    std::shared_ptr<Segment> segment = OpenLeftover(file);
    if (segment == nullptr) {
      ENGRAM_LOG(kWarning) << path_ << "/" << file << " is no segment of layout "
                           << dram::kLayoutVersion << ": it is removed, its rows are read anew";
      ::unlinkat(directory_fd_.get(), file.c_str(), 0);
      continue;
    }
    segment->id_ = next_id_++;
    by_id_[segment->id_] = segment;
    leftovers_.push_back(std::move(segment));
  }
}

std::vector<std::shared_ptr<Segment>> SegmentStore::Adopt(const SegmentHeader& header) {
  std::vector<std::shared_ptr<Segment>> adopted;
  MutexLock lock(mutex_);
  std::erase_if(leftovers_, [&](std::shared_ptr<Segment>& segment) {
    if (!SameLayer(segment->header(), header)) return false;
    adopted.push_back(std::move(segment));
    return true;
  });
  std::sort(adopted.begin(), adopted.end(),
            [](const auto& a, const auto& b) { return a->header().index < b->header().index; });
  return adopted;
}

void SegmentStore::TrimLeftovers(absl::FunctionRef<bool(const SegmentHeader&, uint64_t)> keep) {
  MutexLock lock(mutex_);
  uint64_t bytes = 0;
  std::erase_if(leftovers_, [&](const std::shared_ptr<Segment>& segment) {
    if (keep(segment->header(), segment->bytes())) return false;
    bytes += segment->bytes();
    segment->Discard();
    return true;
  });
  if (bytes > 0) {
    ENGRAM_LOG(kInfo) << FormatSize(bytes) << " of an earlier DRAM tier fit no table as it is now "
                      << "and are given back";
  }
}

uint64_t SegmentStore::leftover_bytes() const {
  MutexLock lock(mutex_);
  uint64_t bytes = 0;
  for (const std::shared_ptr<Segment>& segment : leftovers_) bytes += segment->bytes();
  return bytes;
}

}  // namespace engram
