// Segments: the memory of the DRAM tier. SegmentStore makes them, finds those that an earlier
// daemon left, and owns the page by which clients learn of changes (control.h).
//
// A store either has a directory in memory (tmpfs or hugetlbfs): then each segment is a file there
// that the daemon's user alone may open, clients get read-only descriptors of, and a later daemon
// can take over. Or it has none: then segments are anonymous memory of this process.
//
// On a machine of several NUMA nodes segments are spread over all of them that the process may use,
// unless somebody (numactl, NUMAPolicy= of systemd) has told it where to take memory.
//
// All memory of a segment is allocated when it is made: a client that touches a hole would
// allocate memory, and on a full file system a write would be a SIGBUS.
//
// Thread-safe.
#ifndef ENGRAM_STORAGE_DRAM_SEGMENT_H_
#define ENGRAM_STORAGE_DRAM_SEGMENT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "storage/base/aligned_map.h"
#include "storage/base/mutex.h"
#include "storage/base/unique_fd.h"
#include "storage/dram/control.h"
#include "storage/dram/layout.h"

namespace engram {

class Segment {
 public:
  // Unmaps when it goes. The file of a named segment stays, for the next daemon.
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // On a huge-page boundary where it is that large. It begins with a dram::SegmentHeader.
  std::byte* data() const { return map_.data(); }
  uint64_t bytes() const { return map_.bytes(); }
  const dram::SegmentHeader& header() const {
    return *reinterpret_cast<const dram::SegmentHeader*>(data());
  }
  // Of this store, never used again: names the segment towards clients.
  uint64_t id() const { return id_; }
  // A read-only descriptor; −1 for anonymous memory.
  int share_fd() const { return share_fd_.get(); }
  // How much of it lies in huge pages, as far as the kernel has said.
  uint64_t huge_bytes() const { return huge_bytes_; }
  // The NUMA node that it lies on, going by its first page; −1 if the store does not care.
  int node() const { return node_; }

  // Gives the memory back: removes the file, and frees its pages; processes that still map it read
  // zeros. No thread of this process may read or write the segment from now on.
  void Discard();

 private:
  friend class SegmentStore;
  Segment() = default;
  absl::Status Map(int fd, uint64_t bytes);
  void AskForHugePages(int fd);

  AlignedMap map_;
  uint64_t id_ = 0;
  uint64_t huge_bytes_ = 0;
  int node_ = -1;
  UniqueFd share_fd_;
  int directory_fd_ = -1;  // the store's
  std::string name_;       // empty: anonymous
};

class SegmentStore {
 public:
  // Segments in anonymous memory: nothing is shared, nothing outlives the process.
  static std::unique_ptr<SegmentStore> Anonymous();

  // Segments as files in `parent`/`name`, which is made if need be; what an earlier daemon left
  // there becomes left-overs, and its clients are told that it is gone. One store at a time may use
  // a directory: the caller holds a lock that sees to that.
  // NotFound or PermissionDenied when the directory cannot be made there; FailedPrecondition when
  // `parent` does not lie in memory, or the directory belongs to somebody else.
  static absl::StatusOr<std::unique_ptr<SegmentStore>> Open(const std::string& parent,
                                                            const std::string& name);
  ~SegmentStore();  // after all its segments

  bool shared() const { return directory_fd_.get() >= 0; }
  uint64_t page_bytes() const { return page_bytes_; }
  // The directory that the store's own lies in; empty for anonymous memory.
  const std::string& parent() const { return parent_; }
  // "tmpfs /dev/shm", "hugetlbfs /dev/hugepages (2 MiB pages)", "anonymous memory".
  const std::string& description() const { return description_; }

  // A new segment with this header, whose checksum is set here. ResourceExhausted, saying what to
  // mount or change, when there is not enough memory.
  absl::StatusOr<std::shared_ptr<Segment>> Create(dram::SegmentHeader header, uint64_t bytes);

  // The segment of this id, while somebody holds it; else null.
  std::shared_ptr<Segment> Find(uint64_t id) const;

  // The left-overs that hold rows of the same layer, row size, page size and table digest as
  // `header`, ascending by index. They are left-overs no longer.
  std::vector<std::shared_ptr<Segment>> Adopt(const dram::SegmentHeader& header);
  // Gives up the left-overs that `keep` returns false for, given header and bytes, and says so in
  // the log.
  void TrimLeftovers(absl::FunctionRef<bool(const dram::SegmentHeader&, uint64_t)> keep);
  uint64_t leftover_bytes() const;

  // Bytes that new segments may take where the files lie; the largest number for anonymous memory.
  uint64_t FreeBytes() const;

  // A descriptor that can write, of a segment of this id, or of the control page
  // (dram::kControlPageId), for whom the operator trusts; not valid if there is no such file.
  UniqueFd OpenWritable(uint64_t id) const;

  // For clients: the control page's descriptor, −1 for anonymous memory.
  int control_fd() const { return control_share_fd_.get(); }
  uint64_t generation() const { return dram::Generation(*control_); }
  // To be called after something new may be mapped, and before anything mapped is given up.
  void Advance();

 private:
  SegmentStore() = default;
  absl::Status OpenDirectory(const std::string& parent, const std::string& name);
  absl::Status MakeControlPage();
  void ChooseNodes();
  void RetireControlPage();
  void FindLeftovers();
  std::shared_ptr<Segment> OpenLeftover(const std::string& file);
  absl::Status NoSpace(uint64_t bytes, int error) const;

  UniqueFd directory_fd_;
  std::string path_;
  std::string parent_;
  std::string description_ = "anonymous memory";
  uint64_t page_bytes_ = dram::kPageBytes;
  bool huge_file_system_ = false;
  // Segments go to these NUMA nodes in turn: a segment each, for a huge page lies on one node
  // anyway, and rows are spread over segments evenly. Empty: the kernel does as it likes.
  std::vector<int> nodes_;
  UniqueFd control_share_fd_;
  dram::ControlPage* control_ = nullptr;
  mutable Mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, std::weak_ptr<Segment>> by_id_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Segment>> leftovers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_SEGMENT_H_
