// What a GPU reader has mapped of the daemon's memory for its device: the HBM arena, imported, and
// the DRAM tier's segments, registered. Behind gpu_reader.h.
//
// One thread at a time. Mappings last until the next Use or the destructor; launches that read them
// must have finished by then.
#ifndef ENGRAM_CLIENT_GPU_GPU_SOURCE_H_
#define ENGRAM_CLIENT_GPU_GPU_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/local/shm_tables.h"
#include "gpu_cache/gather_backend.h"
#include "storage/dram/attached.h"

namespace engram {

absl::Status ToAbsl(const gpu_cache::Status& status);

class GpuSource {
 public:
  // `backend` and `gatherer` outlive it.
  GpuSource(gpu_cache::GatherBackend* backend, gpu_cache::Gatherer* gatherer, int32_t layer,
            uint32_t row_bytes)
      : backend_(backend), gatherer_(gatherer), layer_(layer), row_bytes_(row_bytes) {}

  // Whether the mappings are current: Use would change nothing.
  bool Holds() const;

  // From the next launch on `stream` on, rows are read from `table`, as far as this device can;
  // null: every row is a miss. Waits for `stream` first, because launches may still read the old
  // mappings. An error only if the device does not work any more.
  absl::Status Use(std::shared_ptr<const ShmTable> table, void* stream);

  // What is mapped, and what is unavailable and why.
  std::string note() const { return note_; }

  // Reports to the daemon what launches have read. `samples` may hold kDeadPosition.
  void Tell(uint64_t hbm_rows, uint64_t dram_rows, bool complete,
            std::span<const uint32_t> samples);

 private:
  // One segment, or the control page, as the device sees it.
  struct Registered {
    std::shared_ptr<MappedSegment> segment;  // null: the control page, which the link keeps
    std::unique_ptr<gpu_cache::MappedMemory> memory;
  };
  absl::Status UseArena(gpu_cache::Source& source);
  absl::Status UseDram(gpu_cache::Source& source, const AttachedLayer& layer);
  absl::Status RegisterReadOnly(const AttachedLayer& layer);
  absl::Status RegisterWritable(const AttachedLayer& layer);

  gpu_cache::GatherBackend* const backend_;
  gpu_cache::Gatherer* const gatherer_;
  const int32_t layer_;
  const uint32_t row_bytes_;

  std::shared_ptr<const ShmTable> table_;
  bool complete_ = false;  // every row of a resident layer was there
  // Imported once for each link.
  std::shared_ptr<AttachLink> arena_link_;
  std::unique_ptr<gpu_cache::MappedMemory> arena_;
  // By segment id; 0 is the control page. Of one link.
  std::shared_ptr<AttachLink> dram_link_;
  bool dram_writable_ = false;
  std::map<uint64_t, Registered> registered_;
  AttachLink::Cell cell_;
  std::string note_ = "not attached yet";
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_GPU_GPU_SOURCE_H_
