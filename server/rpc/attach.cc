#include "server/rpc/attach.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/placement/hbm_cache.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

v1::ArenaKind ToArenaKind(gpu_cache::MemoryKind kind) {
  switch (kind) {
    case gpu_cache::MemoryKind::kHost:
      return v1::ARENA_KIND_HOST_MEMORY;
    case gpu_cache::MemoryKind::kCudaVmm:
      return v1::ARENA_KIND_CUDA_VMM;
    case gpu_cache::MemoryKind::kCudaIpc:
      return v1::ARENA_KIND_CUDA_IPC;
  }
  return v1::ARENA_KIND_UNSPECIFIED;
}

void DescribeHbm(const HbmCache& hbm, const OpenTable& table, v1::AttachResponse& answer) {
  answer.set_hbm_note(hbm.note());
  for (const std::unique_ptr<TierStack>& stack : table.layers) {
    const std::optional<HbmCache::Place> place = hbm.Find(stack->id());
    if (!place.has_value()) continue;
    v1::HbmLayer& layer = *answer.add_hbm_layers();
    layer.set_layer(Raw(stack->spec().id));
    layer.set_stack_id(stack->id());
    layer.set_region(place->region);
    layer.set_row_bytes(stack->spec().row_bytes);
    v1::HbmArena& arena = *answer.mutable_hbm();
    arena.set_layout_version(gpu_cache::kArenaLayoutVersion);
    arena.set_kind(ToArenaKind(place->arena.kind));
    arena.set_bytes(place->arena.bytes);
    arena.set_device_id(place->arena.device_id.data(), place->arena.device_id.size());
    if (place->arena.kind == gpu_cache::MemoryKind::kCudaIpc) {
      arena.set_ipc_handle(place->arena.ipc_handle.data(), place->arena.ipc_handle.size());
    }
  }
}

}  // namespace

absl::StatusOr<v1::AttachResponse> DescribeSharedDram(const Tables& tables, const Sharing& sharing,
                                                      const v1::AttachRequest& request) {
  if (sharing.instance == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the daemon shares no memory: ", sharing.note));
  }
  if (tables.dram_budget_bytes() == 0) {
    return absl::FailedPreconditionError(
        "the daemon shares no memory, HBM neither: the DRAM tier is off");
  }
  v1::AttachResponse answer;
  answer.set_layout_version(dram::kLayoutVersion);
  answer.set_instance(sharing.instance);
  // Before anything is looked at: whatever changes from now on shows in a newer generation.
  answer.set_generation(tables.segments().generation());
  if (request.table().empty()) return answer;
  ENGRAM_ASSIGN_OR_RETURN(const std::shared_ptr<const OpenTable> table,
                          tables.Find(request.table(), VersionId{request.version()}));
  answer.set_writable_dram(sharing.writable_dram);
  answer.set_version(Raw(table->spec().version));
  answer.set_table_digest(table->record.table_digest);
  for (const std::unique_ptr<TierStack>& stack : table->layers) {
    const std::shared_ptr<const RowCache> dram = stack->SharedDram();
    if (dram == nullptr) continue;
    const dram::LayerShape& shape = dram->shape();
    v1::DramLayer& layer = *answer.add_layers();
    layer.set_layer(Raw(stack->spec().id));
    layer.set_stack_id(stack->id());
    layer.set_row_bytes(shape.row_bytes);
    layer.set_rows(shape.layer_rows);
    layer.set_resident(shape.mode == dram::Mode::kResident);
    layer.set_per_segment(shape.per_segment);
    layer.set_page_bytes(shape.page_bytes);
    const auto& buckets = dram->bucket_segments();
    layer.set_bucket_segments(buckets.data(), buckets.size() * sizeof(buckets[0]));
    bool huge = true;
    for (const std::shared_ptr<Segment>& segment : dram->segments()) {
      layer.add_segment_ids(segment->id());
      huge = huge && segment->huge_bytes() == segment->bytes();
    }
    layer.set_huge_pages(huge);
  }
  if (sharing.hbm != nullptr) DescribeHbm(*sharing.hbm, *table, answer);
  return answer;
}

}  // namespace engram
