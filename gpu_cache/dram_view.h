// A layer's DRAM tier as a gather sees it: storage/dram/layout.h read through addresses that the
// gathering device can use. On a GPU those are of registered host memory, read over PCIe.
//
// Finds rows as storage/dram/reader.h does for processors, on the same memory.
#ifndef ENGRAM_GPU_CACHE_DRAM_VIEW_H_
#define ENGRAM_GPU_CACHE_DRAM_VIEW_H_

#include <cstddef>
#include <cstdint>

#include "gpu_cache/portable.h"
#include "storage/dram/layout.h"

namespace engram::gpu_cache {

// A plain value. Everything it points to is read by the device.
struct DramView {
  const std::byte* const* segments = nullptr;  // null: there is no DRAM tier to read
  const uint16_t* bucket_segments = nullptr;   // of each bucket; null: there is one segment
  // The control page's (storage/dram/control.h), and what it was when all this was true.
  const uint64_t* generation = nullptr;
  uint64_t attached_generation = 0;
  uint64_t layer_rows = 0;
  uint64_t stride = 0;
  uint64_t set_bytes = 0;
  uint64_t slots_offset = 0;
  uint64_t rows_offset = 0;
  uint32_t per_segment = 0;
  uint32_t resident = 0;
  uint32_t complete = 0;  // resident: every row is there
};

constexpr DramView DramViewOf(const dram::LayerShape& shape) {
  DramView view;
  view.layer_rows = shape.layer_rows;
  view.stride = shape.RowStride();
  view.set_bytes = shape.SetBytes();
  view.slots_offset = shape.SlotsOffset();
  view.rows_offset = shape.RowsOffset();
  view.per_segment = shape.per_segment;
  view.resident = shape.mode == dram::Mode::kResident;
  return view;
}

// kCache: where the row's set begins, its tag line first.
ENGRAM_HD const std::byte* DramSetOf(const DramView& view, uint32_t row_id) {
  const uint64_t hash = dram::HashRowId(row_id);
  const uint32_t segment =
      view.bucket_segments == nullptr ? 0 : view.bucket_segments[dram::BucketOf(hash)];
  return view.segments[segment] + view.rows_offset +
         dram::SetOf(hash, view.per_segment) * view.set_bytes;
}

// kCache: the slot of a way of this set.
ENGRAM_HD const std::byte* DramSlot(const DramView& view, const std::byte* set, int way) {
  return set + view.slots_offset + static_cast<uint64_t>(way) * view.stride;
}

// kResident: the row's slot; null if the row is not there, or the layer has no such row.
ENGRAM_HD const std::byte* DramResidentRow(const DramView& view, uint32_t row_id) {
  if (row_id >= view.layer_rows) return nullptr;
  const uint32_t segment = row_id / view.per_segment;
  const uint32_t slot = row_id % view.per_segment;
  const std::byte* const base = view.segments[segment];
  if (view.complete == 0) {
    const auto* bits = reinterpret_cast<const uint64_t*>(base + dram::kHeaderBytes);
    // Acquire: the row's bytes were stored before its bit.
    if ((LoadAcquire64(&bits[slot / 64]) >> (slot % 64) & 1) == 0) return nullptr;
  }
  return base + view.rows_offset + slot * view.stride;
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_DRAM_VIEW_H_
