// What HbmCache does with the rows of one region: compares them with those that belong there,
// writes the difference, and reads them back.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/placement/hbm_cache.h"
#include "storage/table/row_batch.h"

namespace engram {

using gpu_cache::kEmptyTag;
using gpu_cache::kWays;

namespace {

// Rows that are written at a time: enough to keep the drive and the bus busy, and a batch under way
// sees at most so many replaced.
constexpr size_t kRowsAtOnce = 2048;
// Sectors that are compared under one hold of the arena's lock: milliseconds.
constexpr uint32_t kSectorsAtOnce = 1u << 16;

}  // namespace

std::vector<HbmCache::SlotWrite> HbmCache::Compare(Layer& layer) const {
  std::vector<SlotWrite> writes;
  MutexLock lock(arena_mutex_);
  const gpu_cache::Arena::RegionState* const region = arena_->Find(layer.stack_id);
  if (region == nullptr) return writes;
  uint32_t& sector = layer.next_sector;
  const uint32_t end = std::min(region->shape.sectors - sector, kSectorsAtOnce) + sector;
  for (; sector < end && writes.size() + kWays <= kRowsAtOnce; ++sector) {
    const std::array<uint32_t, kWays> wanted = layer.admission->Wanted(sector);
    const uint32_t* const tags = &region->tags[uint64_t{sector} * kWays];
    // Free slots first, then those of rows that are not wanted any more.
    std::array<uint32_t, kWays> slots{};
    uint32_t usable = 0;
    for (uint32_t way = 0; way < kWays; ++way) {
      if (tags[way] == kEmptyTag) slots[usable++] = way;
    }
    const uint32_t free_slots = usable;
    for (uint32_t way = 0; way < kWays; ++way) {
      const bool stays = tags[way] == kEmptyTag ||
                         std::find(wanted.begin(), wanted.end(), tags[way]) != wanted.end();
      if (!stays) slots[usable++] = way;
    }
    uint32_t taken = 0;
    for (uint32_t way = 0; way < kWays; ++way) {
      if (wanted[way] == kEmptyTag || std::find(tags, tags + kWays, wanted[way]) != tags + kWays) {
        continue;
      }
      const uint32_t slot = region->shape.direct ? way : slots[taken];
      writes.push_back({.slot = uint64_t{sector} * kWays + slot,
                        .replaces = !region->shape.direct && taken >= free_slots,
                        .row_id = gpu_cache::TagOf(wanted[way])});
      ++taken;
    }
  }
  return writes;
}

// Reads the rows of `writes` into `rows`, and says which of them it got.
std::vector<bool> HbmCache::FetchRows(Layer& layer, TierStack& stack,
                                      absl::Span<const SlotWrite> writes,
                                      absl::Span<std::byte> rows) const {
  const uint32_t row_bytes = stack.spec().row_bytes;
  std::vector<bool> fetched(writes.size());
  std::vector<RowId> cold;
  std::vector<size_t> positions;
  for (size_t i = 0; i < writes.size(); ++i) {
    const RowId id{writes[i].row_id};
    fetched[i] = stack.PeekDram(id, rows.subspan(i * row_bytes, row_bytes));
    if (fetched[i]) continue;
    if (writes[i].replaces && layer.nvme_left == 0) continue;
    if (writes[i].replaces) --layer.nvme_left;
    cold.push_back(id);
    positions.push_back(i);
  }
  if (cold.empty()) return fetched;
  std::vector<std::byte> read(cold.size() * row_bytes);
  RowBatch batch(cold, row_bytes, absl::MakeSpan(read));
  stack.ReadStorage(batch);
  std::vector<bool> failed(cold.size());
  for (const RowFailure& failure : batch.failures()) failed[failure.position] = true;
  for (size_t i = 0; i < cold.size(); ++i) {
    if (failed[i]) continue;
    std::copy_n(&read[i * row_bytes], row_bytes, &rows[positions[i] * row_bytes]);
    fetched[positions[i]] = true;
  }
  return fetched;
}

bool HbmCache::WriteRows(Layer& layer, absl::Span<const SlotWrite> writes) {
  const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
  if (found.stack == nullptr) return false;
  const uint32_t row_bytes = found.stack->spec().row_bytes;
  std::vector<std::byte> rows(writes.size() * row_bytes);
  const std::vector<bool> fetched = FetchRows(layer, *found.stack, writes, absl::MakeSpan(rows));
  std::vector<uint64_t> emptied;
  std::vector<gpu_cache::Arena::WriteSlot> puts;
  for (size_t i = 0; i < writes.size(); ++i) {
    if (!fetched[i]) continue;
    if (puts.size() != i) {
      std::copy_n(&rows[i * row_bytes], row_bytes, &rows[puts.size() * row_bytes]);
    }
    puts.push_back({.slot = writes[i].slot, .row_id = writes[i].row_id});
    if (writes[i].replaces) emptied.push_back(writes[i].slot);
  }
  rows.resize(puts.size() * row_bytes);
  gpu_cache::Status status;
  {
    MutexLock lock(arena_mutex_);
    if (arena_->Find(layer.stack_id) == nullptr) return false;
    status = arena_->Replace(layer.stack_id, emptied, puts, rows);
  }
  if (!status.ok()) {
    failed_ = status;
    return false;
  }
  PublishUsage(layer, found);
  return true;
}

bool HbmCache::ReadHeld(uint32_t stack_id, absl::Span<const RowId> ids, absl::Span<std::byte> rows,
                        std::vector<bool>& held) const {
  MutexLock lock(arena_mutex_);
  const gpu_cache::Arena::RegionState* const region =
      arena_ == nullptr ? nullptr : arena_->Find(stack_id);
  if (region == nullptr) return false;
  const uint32_t row_bytes = region->shape.row_bytes;
  held.assign(ids.size(), false);
  std::vector<uint64_t> slots;
  std::vector<size_t> positions;
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint32_t sector =
        gpu_cache::SectorOf(Raw(ids[i]), region->shape.sectors, region->shape.direct);
    if (ids[i] == RowId::kDeadPosition || sector >= region->shape.sectors) continue;
    for (uint64_t slot = uint64_t{sector} * kWays; slot < (uint64_t{sector} + 1) * kWays; ++slot) {
      if (region->tags[slot] != gpu_cache::TagOf(Raw(ids[i]))) continue;
      slots.push_back(slot);
      positions.push_back(i);
    }
  }
  std::vector<std::byte> read(slots.size() * row_bytes);
  if (!arena_->Read(stack_id, slots, {read.data(), read.size()}).ok()) return false;
  for (size_t i = 0; i < slots.size(); ++i) {
    held[positions[i]] = true;
    std::copy_n(&read[i * row_bytes], row_bytes, &rows[positions[i] * row_bytes]);
  }
  return true;
}

}  // namespace engram
