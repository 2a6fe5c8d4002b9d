// The DRAM tier of another process' daemon, read where it lies: the client's side of handover.h.
//
//   auto link = AttachLink::Connect("/run/engramd/engramd.sock.shm", instance);
//   auto layer = AttachedLayer::Map(*link, description);        // from Attach
//   if (!(*link)->Holds(generation)) … attach again
//   size_t left = layer->Gather(ids, out, missing, phase);
//   if (!(*link)->Holds(generation)) … what was copied is not to be used
//
// Whatever the daemon does, also dying in the middle of a write, a row that is copied between two
// calls of Holds that are both true is the table's. Nothing here waits for the daemon but Connect
// and Map, a second at most.
//
// Thread-safe.
#ifndef ENGRAM_STORAGE_DRAM_ATTACHED_H_
#define ENGRAM_STORAGE_DRAM_ATTACHED_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/aligned_map.h"
#include "storage/base/mutex.h"
#include "storage/base/unique_fd.h"
#include "storage/dram/access_ring.h"
#include "storage/dram/control.h"
#include "storage/dram/handover.h"
#include "storage/dram/layout.h"
#include "storage/dram/reader.h"

namespace engram {

// One segment, mapped for as long as the object lives; read-only, unless a GPU needs it otherwise.
class MappedSegment {
 public:
  // Unavailable when it cannot be mapped.
  // `writable`: the descriptor has to be, and nothing is ever written all the same.
  static absl::StatusOr<std::shared_ptr<MappedSegment>> Map(UniqueFd file, bool populate,
                                                            bool writable = false);

  std::byte* data() const { return map_.data(); }
  uint64_t bytes() const { return map_.bytes(); }

 private:
  explicit MappedSegment(AlignedMap map) : map_(std::move(map)) {}
  const AlignedMap map_;
};

class AttachLink {
 public:
  // Unavailable, with the reason, when nobody listens there, when it is another daemon than
  // `instance`, or one of another layout.
  static absl::StatusOr<std::shared_ptr<AttachLink>> Connect(const std::string& path,
                                                             uint64_t instance);
  ~AttachLink();
  AttachLink(const AttachLink&) = delete;
  AttachLink& operator=(const AttachLink&) = delete;

  uint64_t instance() const { return instance_; }
  // Whether all that is mapped under this generation is the daemon's still, and was since it was
  // first true.
  bool Holds(uint64_t generation) const {
    // Acquire fence inside: see control.h.
    return dram::SameGeneration(*control_, generation) && !ended_.load(std::memory_order_relaxed);
  }
  // The daemon has gone.
  bool ended() const { return ended_.load(std::memory_order_relaxed); }

  // The segments of these ids, those that are mapped already and new ones. Unavailable when one is
  // gone: attach again.
  absl::StatusOr<std::vector<std::shared_ptr<MappedSegment>>> Segments(
      absl::Span<const uint64_t> ids, bool populate);

  // The same, writable and mapped once more, for a GPU that reads no memory which its process may
  // not write; id dram::kControlPageId is the control page. Unavailable also if the operator does
  // not allow it.
  absl::StatusOr<std::vector<std::shared_ptr<MappedSegment>>> WritableSegments(
      absl::Span<const uint64_t> ids);
  // The HBM tier's memory: gpu_cache/arena_export.h. Unavailable: there is none.
  absl::StatusOr<UniqueFd> ArenaFile();
  // Read-only. For a GPU to look at `generation`.
  const dram::ControlPage* control() const { return control_; }

  // The ring's cell for a layer, and its number; null when all are taken.
  struct Cell {
    dram::RingCell* cell = nullptr;
    uint32_t number = 0;
  };
  Cell CellFor(uint32_t stack_id);
  dram::AccessRing& ring() const { return *ring_; }

 private:
  AttachLink() = default;
  absl::Status Hello(uint64_t instance);
  absl::StatusOr<std::vector<UniqueFd>> Ask(const dram::HandoverRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<std::shared_ptr<MappedSegment>>> MapNow(dram::HandoverKind kind,
                                                                     absl::Span<const uint64_t> ids,
                                                                     bool populate)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Watch();

  UniqueFd socket_;
  uint64_t instance_ = 0;
  const dram::ControlPage* control_ = nullptr;
  uint64_t control_bytes_ = 0;
  dram::AccessRing* ring_ = nullptr;
  Mutex mutex_;  // one question at a time; guards what follows
  std::map<uint64_t, std::weak_ptr<MappedSegment>> mapped_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> cells_ ABSL_GUARDED_BY(mutex_);  // their stack ids
  // Relaxed: nothing is handed over with it; a moment later is as good.
  std::atomic<bool> ended_{false};
  UniqueFd stop_;  // an eventfd
  std::thread watcher_;
};

// What Attach says of one layer.
struct AttachedShape {
  int32_t layer = 0;
  uint32_t stack_id = 0;
  dram::LayerShape shape;
  std::string table_digest;
  std::vector<uint64_t> segment_ids;
  std::vector<uint16_t> bucket_segments;
  bool huge_pages = false;
};

class AttachedLayer {
 public:
  // FailedPrecondition when memory and description do not fit each other; else as Segments.
  static absl::StatusOr<std::unique_ptr<AttachedLayer>> Map(std::shared_ptr<AttachLink> link,
                                                            const AttachedShape& description);

  int32_t layer() const { return layer_; }
  uint32_t row_bytes() const { return view_.shape().row_bytes; }

  struct Result {
    size_t missing = 0;
    uint64_t hits = 0;
  };
  // Copies the rows of `ids` that are held to out[i * row_bytes …]; kDeadPosition gives zeros.
  // Positions of the others go to `missing`, which has room for all, ascending. Requires
  // out.size() == ids.size() * row_bytes. Counts them for the daemon; one position in several is
  // reported, from `phase` on, so callers take turns with it.
  Result Gather(absl::Span<const uint32_t> ids, absl::Span<std::byte> out,
                absl::Span<uint32_t> missing, uint32_t phase) const;
  // Adds a look-up that needed nothing but DRAM.
  void CountCall() const;

  // What it was mapped by, and where its segments lie in this process.
  const AttachedShape& description() const { return description_; }
  const std::vector<std::shared_ptr<MappedSegment>>& segments() const { return segments_; }
  // Of kResident: whether every row is there.
  bool Complete() const { return view_.Complete(); }

 private:
  AttachedLayer() = default;
  void Report(absl::Span<const uint32_t> ids, absl::Span<const uint32_t> missing,
              uint32_t phase) const;

  std::shared_ptr<AttachLink> link_;
  int32_t layer_ = 0;
  AttachedShape description_;
  std::vector<std::shared_ptr<MappedSegment>> segments_;
  dram::View view_;
  AttachLink::Cell cell_;
  // Acquire and release: what made it true was seen before.
  mutable std::atomic<bool> complete_{false};
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_ATTACHED_H_
