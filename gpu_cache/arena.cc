#include "gpu_cache/arena.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>

namespace engram::gpu_cache {

Status Arena::Create(ArenaBackend& backend, uint64_t budget_bytes, MemoryKind kind,
                     std::unique_ptr<Arena>& out) {
  const uint64_t unit = backend.AllocationUnit();
  const uint64_t bytes = budget_bytes / unit * unit;
  if (bytes < kArenaHeaderBytes + kRegionAlignment) {
    return {Code::kInvalid, "an HBM budget of " + std::to_string(budget_bytes) +
                                " bytes is too small: memory of " + backend.name() +
                                " comes in units of " + std::to_string(unit) + " bytes"};
  }
  std::unique_ptr<ArenaMemory> memory;
  ENGRAM_GPU_RETURN_IF_ERROR(backend.Allocate(bytes, kind, memory));
  ArenaHeader header{};
  header.magic = kArenaMagic;
  header.bytes = bytes;
  header.layout_version = kArenaLayoutVersion;
  ENGRAM_GPU_RETURN_IF_ERROR(memory->Write(0, std::as_bytes(std::span(&header, 1))));
  out = std::unique_ptr<Arena>(new Arena(std::move(memory)));
  return {};
}

uint64_t Arena::EpochOffset(uint32_t region) {
  return offsetof(ArenaHeader, regions) + region * sizeof(Region) + offsetof(Region, epoch);
}

// One behind the other, in the order given. A layer that has a region keeps its number.
std::map<uint32_t, Arena::RegionState> Arena::Plan(std::span<const LayerShare> layers) const {
  uint64_t weights = 0;
  std::set<uint32_t> taken;
  for (const LayerShare& layer : layers) {
    weights += layer.weight;
    if (const RegionState* held = Find(layer.stack_id); held != nullptr) taken.insert(held->region);
  }
  std::map<uint32_t, RegionState> plan;
  const uint64_t room = bytes() - kArenaHeaderBytes;
  uint64_t offset = kArenaHeaderBytes;
  uint32_t free_region = 0;
  for (const LayerShare& layer : layers) {
    if (plan.size() == kMaxRegions) break;
    const auto share =
        static_cast<uint64_t>(static_cast<double>(room) * static_cast<double>(layer.weight) /
                              static_cast<double>(weights));
    RegionState held;
    held.shape = FitRegion(std::min(share, bytes() - offset), layer.row_bytes, layer.layer_rows);
    if (held.shape.sectors == 0) continue;
    if (const RegionState* before = Find(layer.stack_id); before != nullptr) {
      held.region = before->region;
    } else {
      while (taken.contains(free_region)) ++free_region;
      held.region = free_region++;
    }
    held.index_offset = offset;
    held.rows_offset = offset + held.shape.RowsOffset();
    offset += (held.shape.Bytes() + kRegionAlignment - 1) / kRegionAlignment * kRegionAlignment;
    offset = std::min(offset, bytes());
    plan[layer.stack_id] = std::move(held);
  }
  return plan;
}

Status Arena::Retire(uint32_t region) {
  epochs_[region] |= 1;
  return memory_->Publish(EpochOffset(region), epochs_[region]);
}

Status Arena::Activate(uint32_t stack_id, RegionState& held) {
  const Region region{.epoch = epochs_[held.region],
                      .index_offset = held.index_offset,
                      .rows_offset = held.rows_offset,
                      .stack_id = stack_id,
                      .sectors = held.shape.sectors,
                      .row_bytes = held.shape.row_bytes,
                      .direct = held.shape.direct ? 1u : 0u};
  ENGRAM_GPU_RETURN_IF_ERROR(
      memory_->Write(EpochOffset(held.region), std::as_bytes(std::span(&region, 1))));
  ENGRAM_GPU_RETURN_IF_ERROR(memory_->Clear(held.index_offset, held.shape.IndexBytes()));
  held.tags.assign(held.shape.Slots(), kEmptyTag);
  held.rows = 0;
  return memory_->Publish(EpochOffset(held.region), ++epochs_[held.region]);
}

Status Arena::ShareOut(std::span<const LayerShare> layers) {
  std::map<uint32_t, RegionState> plan = Plan(layers);
  const auto keeps = [&](uint32_t stack_id) {
    const auto wanted = plan.find(stack_id);
    const RegionState* const held = Find(stack_id);
    return held != nullptr && wanted != plan.end() && held->shape == wanted->second.shape &&
           held->index_offset == wanted->second.index_offset;
  };
  // First nobody reads what changes any more, in any region; then it is written.
  for (const auto& [stack_id, held] : layers_) {
    if (!keeps(stack_id)) ENGRAM_GPU_RETURN_IF_ERROR(Retire(held.region));
  }
  for (auto& [stack_id, held] : plan) {
    if (keeps(stack_id)) {
      held = std::move(layers_.at(stack_id));
      continue;
    }
    ENGRAM_GPU_RETURN_IF_ERROR(Retire(held.region));
    ENGRAM_GPU_RETURN_IF_ERROR(Activate(stack_id, held));
  }
  layers_ = std::move(plan);
  return {};
}

const Arena::RegionState* Arena::Find(uint32_t stack_id) const {
  const auto found = layers_.find(stack_id);
  return found == layers_.end() ? nullptr : &found->second;
}

// The sectors of these slots, as the tags say now.
Status Arena::WriteSectors(const RegionState& held, std::span<const uint64_t> slots) {
  std::vector<uint64_t> sectors;
  for (const uint64_t slot : slots) sectors.push_back(slot / kWays);
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  std::vector<std::byte> records(sectors.size() * kSectorBytes);
  for (size_t i = 0; i < sectors.size(); ++i) {
    std::memcpy(&records[i * kSectorBytes], &held.tags[sectors[i] * kWays], kSectorBytes);
    sectors[i] = held.index_offset + sectors[i] * kSectorBytes;
  }
  return memory_->Scatter(sectors, kSectorBytes, records);
}

Status Arena::Replace(uint32_t stack_id, std::span<const uint64_t> emptied,
                      std::span<const WriteSlot> puts, std::span<const std::byte> rows) {
  RegionState& held = layers_.at(stack_id);
  const uint32_t row_bytes = held.shape.row_bytes;
  if (!emptied.empty()) {
    for (const uint64_t slot : emptied) {
      held.rows -= held.tags[slot] != kEmptyTag;
      held.tags[slot] = kEmptyTag;
    }
    ENGRAM_GPU_RETURN_IF_ERROR(WriteSectors(held, emptied));
    // Who saw one of those tags sees this too, before the slot has other bytes.
    epochs_[held.region] += 2;
    ENGRAM_GPU_RETURN_IF_ERROR(memory_->Publish(EpochOffset(held.region), epochs_[held.region]));
  }
  if (puts.empty()) return {};
  std::vector<uint64_t> offsets, slots;
  for (const WriteSlot& put : puts) {
    slots.push_back(put.slot);
    offsets.push_back(held.rows_offset + put.slot * RowStride(row_bytes));
  }
  ENGRAM_GPU_RETURN_IF_ERROR(memory_->Scatter(offsets, row_bytes, rows));
  for (const WriteSlot& put : puts) {
    held.rows += held.tags[put.slot] == kEmptyTag;
    held.tags[put.slot] = TagOf(put.row_id);
  }
  return WriteSectors(held, slots);
}

Status Arena::Read(uint32_t stack_id, std::span<const uint64_t> slots, std::span<std::byte> rows) {
  const RegionState& held = layers_.at(stack_id);
  std::vector<uint64_t> offsets;
  for (const uint64_t slot : slots) {
    offsets.push_back(held.rows_offset + slot * RowStride(held.shape.row_bytes));
  }
  return memory_->Collect(offsets, held.shape.row_bytes, rows);
}

}  // namespace engram::gpu_cache
