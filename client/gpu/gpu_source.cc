#include "client/gpu/gpu_source.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"
#include "storage/dram/control.h"

namespace engram {

absl::Status ToAbsl(const gpu_cache::Status& status) {
  switch (status.code()) {
    case gpu_cache::Code::kOk:
      return absl::OkStatus();
    case gpu_cache::Code::kInvalid:
      return absl::InvalidArgumentError(status.message());
    case gpu_cache::Code::kUnsupported:
      return absl::FailedPreconditionError(status.message());
    case gpu_cache::Code::kExhausted:
      return absl::ResourceExhaustedError(status.message());
    case gpu_cache::Code::kUnavailable:
      break;
  }
  return absl::UnavailableError(status.message());
}

bool GpuSource::Holds() const {
  if (table_ == nullptr || !table_->Holds()) return false;
  if (complete_) return true;
  // Once every row is there the kernel need not look at bits any more.
  const AttachedLayer* const layer = table_->Find(layer_);
  return layer == nullptr || !layer->Complete();
}

absl::Status GpuSource::Use(std::shared_ptr<const ShmTable> table, void* stream) {
  if (table == nullptr && table_ == nullptr) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(ToAbsl(gatherer_->Wait(stream)));
  // The new table's segments are, most of them, the old one's.
  const std::shared_ptr<const ShmTable> before = std::exchange(table_, std::move(table));
  cell_ = {};
  complete_ = false;
  gpu_cache::Source source{.row_bytes = row_bytes_, .dram = {}};
  std::vector<const std::byte*> segments;
  absl::Span<const uint16_t> buckets;
  if (table_ == nullptr) {
    note_ = "the daemon shares no memory with this process at the moment";
    registered_.clear();
    arena_.reset();
  } else {
    const absl::Status hbm = UseArena(source);
    const AttachedLayer* const layer = table_->Find(layer_);
    const absl::Status dram = layer == nullptr
                                  ? absl::FailedPreconditionError("this layer has none")
                                  : UseDram(source, *layer);
    if (dram.ok()) {
      for (const uint64_t id : layer->description().segment_ids) {
        segments.push_back(registered_.at(id).memory->data());
      }
      buckets = layer->description().bucket_segments;
      cell_ = table_->link->CellFor(layer->description().stack_id);
    }
    note_ = absl::StrCat(
        "HBM: ", hbm.ok() ? table_->hbm_note : absl::StrCat("not used: ", hbm.message()),
        "; DRAM: ", dram.ok() ? "read by the device" : absl::StrCat("not used: ", dram.message()));
  }
  return ToAbsl(gatherer_->SetSource(source, segments, {buckets.data(), buckets.size()}, stream));
}

absl::Status GpuSource::UseArena(gpu_cache::Source& source) {
  const auto place = std::find_if(table_->hbm_layers.begin(), table_->hbm_layers.end(),
                                  [&](const HbmLayerPlace& one) { return one.layer == layer_; });
  if (place == table_->hbm_layers.end() || place->row_bytes != row_bytes_) {
    return absl::FailedPreconditionError(table_->arena.bytes == 0
                                             ? table_->hbm_note
                                             : "the daemon has no room in it for this layer");
  }
  if (arena_link_ != table_->link) arena_.reset();
  if (arena_ == nullptr) {
    UniqueFd file;
    if (table_->arena.kind != gpu_cache::MemoryKind::kCudaIpc) {
      ENGRAM_ASSIGN_OR_RETURN(file, table_->link->ArenaFile());
    }
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend_->Import(table_->arena, file.get(), arena_)));
    arena_link_ = table_->link;
  }
  source.arena = arena_->data();
  source.arena_bytes = table_->arena.bytes;
  source.region = place->region;
  source.stack_id = place->stack_id;
  cell_ = table_->link->CellFor(place->stack_id);
  return absl::OkStatus();
}

absl::Status GpuSource::UseDram(gpu_cache::Source& source, const AttachedLayer& layer) {
  if (layer.row_bytes() != row_bytes_) {
    return absl::FailedPreconditionError("its rows are of another size");
  }
  const bool writable = !backend_->CanRegisterReadOnly();
  if (dram_link_ != table_->link || writable != dram_writable_) registered_.clear();
  dram_link_ = table_->link;
  dram_writable_ = writable;
  // What is not this layer's any more is let go of, so that the daemon gets its memory back.
  std::erase_if(registered_, [&](const auto& entry) {
    const std::vector<uint64_t>& ids = layer.description().segment_ids;
    return entry.first != dram::kControlPageId &&
           std::find(ids.begin(), ids.end(), entry.first) == ids.end();
  });
  if (writable && !table_->writable_dram) {
    return absl::FailedPreconditionError(
        absl::StrCat(backend_->name(),
                     " reads no host memory that its process may not write; an operator may "
                     "allow that (hbm_memory: gpu-writable)"));
  }
  const absl::Status status = writable ? RegisterWritable(layer) : RegisterReadOnly(layer);
  if (!status.ok()) {
    registered_.clear();
    return status;
  }
  source.dram = gpu_cache::DramViewOf(layer.description().shape);
  const std::byte* const control = registered_.at(dram::kControlPageId).memory->data();
  source.dram.generation =
      reinterpret_cast<const uint64_t*>(control + offsetof(dram::ControlPage, generation));
  source.dram.attached_generation = table_->generation;
  complete_ = layer.Complete();
  source.dram.complete = complete_;
  return absl::OkStatus();
}

absl::Status GpuSource::RegisterReadOnly(const AttachedLayer& layer) {
  if (Registered& page = registered_[dram::kControlPageId]; page.memory == nullptr) {
    auto* const control = const_cast<dram::ControlPage*>(table_->link->control());
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend_->Register(reinterpret_cast<std::byte*>(control),
                                                     dram::kControlBytes, true, page.memory)));
  }
  const std::vector<uint64_t>& ids = layer.description().segment_ids;
  for (size_t i = 0; i < ids.size(); ++i) {
    Registered& one = registered_[ids[i]];
    const std::shared_ptr<MappedSegment>& segment = layer.segments()[i];
    if (one.memory != nullptr && one.segment == segment) continue;
    one.memory.reset();
    one.segment = segment;
    ENGRAM_RETURN_IF_ERROR(
        ToAbsl(backend_->Register(segment->data(), segment->bytes(), true, one.memory)));
  }
  return absl::OkStatus();
}

absl::Status GpuSource::RegisterWritable(const AttachedLayer& layer) {
  std::vector<uint64_t> wanted;
  for (const uint64_t id : layer.description().segment_ids) {
    if (registered_[id].memory == nullptr) wanted.push_back(id);
  }
  if (registered_[dram::kControlPageId].memory == nullptr) wanted.push_back(dram::kControlPageId);
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::shared_ptr<MappedSegment>> segments,
                          table_->link->WritableSegments(wanted));
  for (size_t i = 0; i < wanted.size(); ++i) {
    Registered& one = registered_[wanted[i]];
    one.segment = segments[i];
    ENGRAM_RETURN_IF_ERROR(
        ToAbsl(backend_->Register(segments[i]->data(), segments[i]->bytes(), false, one.memory)));
  }
  return absl::OkStatus();
}

void GpuSource::Tell(uint64_t hbm_rows, uint64_t dram_rows, bool complete,
                     std::span<const uint32_t> samples) {
  if (table_ == nullptr || cell_.cell == nullptr || table_->link->ended()) return;
  if (hbm_rows > 0) dram::CountHbmRows(*cell_.cell, hbm_rows);
  dram::CountRows(*cell_.cell, dram_rows, complete ? 1 : 0);
  dram::AccessRing& ring = table_->link->ring();
  if (samples.empty() || dram::IsFull(ring)) return;
  uint64_t number = dram::TakePlaces(ring, samples.size());
  for (const uint32_t id : samples) {
    if (id != dram::kDeadPosition) dram::PutSample(ring, number++, cell_.number, id);
  }
}

}  // namespace engram
