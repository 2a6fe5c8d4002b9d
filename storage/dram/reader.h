// The read side of a layer's DRAM tier: find a row, copy it, and check that nobody changed its set
// meanwhile (seqlock.h). A resident row never changes once its bit is set, so nothing is checked.
//
// View borrows segments laid out as layout.h says. Any number of threads may read while others
// write; a reader never waits and never writes, except for a used-bit where MarkUsed is called.
// Only the standard library: a process that maps the memory read-only can use it as well. Such a
// one has to make sure besides that no segment was given up while it read (control.h).
//
//   const Found found = view.Find(id);
//   if (found.row != nullptr) {
//     view.Copy(found, out);
//     if (view.Unchanged(found)) … out holds the row; otherwise out holds garbage: try again.
//   }
//
// gather.h does this for whole batches.
#ifndef ENGRAM_STORAGE_DRAM_READER_H_
#define ENGRAM_STORAGE_DRAM_READER_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "storage/dram/layout.h"
#include "storage/dram/seqlock.h"

namespace engram::dram {

// Where a row was found.
struct Found {
  std::byte* set = nullptr;  // kCache: the row's set, held or not
  std::byte* row = nullptr;  // its slot; null: not held
  uint32_t version = 0;      // kCache: of the set at that time
  int way = 0;               // kCache, if held
};

class View {
 public:
  View() = default;
  // segments[i] is shape.SegmentBytes(i) long, aligned to kPageBytes, and outlives the view.
  // `bucket_segments` has, for kCache with several segments, the segment of each of the kBuckets;
  // else it is empty. Every entry is below shape.segments.
  View(const LayerShape& shape, std::vector<std::byte*> segments,
       std::vector<uint16_t> bucket_segments)
      : shape_(shape),
        resident_(shape.mode == Mode::kResident),
        stride_(shape.RowStride()),
        row_lines_(LinesOf(shape.row_bytes)),
        set_bytes_(shape.SetBytes()),
        slots_offset_(shape.SlotsOffset()),
        rows_offset_(shape.RowsOffset()),
        // Lemire, Kaser, Kurz, "Faster remainder by direct computation", 2019: with this factor
        // the quotient of any 32-bit number is exact.
        reciprocal_(shape.per_segment > 1 ? ~uint64_t{0} / shape.per_segment + 1 : 0),
        segments_(std::move(segments)),
        bucket_segments_(std::move(bucket_segments)) {}

  const LayerShape& shape() const { return shape_; }
  const std::vector<std::byte*>& segments() const { return segments_; }
  SegmentHeader& header(uint32_t segment) const {
    return *reinterpret_cast<SegmentHeader*>(segments_[segment]);
  }
  bool resident() const { return resident_; }

  // Requires row_id != kDeadPosition. A set that a writer has gives an odd version, and its row
  // means nothing. In kResident a row that the layer does not have is not held.
  Found Find(uint32_t row_id) const {
    if (!resident_) return FindInSet(SetOf(row_id), TagOf(row_id));
    Found found;
    if (row_id < shape_.layer_rows && IsThere(row_id)) found.row = SlotOf(row_id);
    return found;
  }

  // Of kCache: where the row's set begins. Any id.
  std::byte* SetOf(uint32_t row_id) const {
    const uint64_t hash = HashRowId(row_id);
    const size_t segment = bucket_segments_.empty() ? 0 : bucket_segments_[BucketOf(hash)];
    return SetAt(segment, dram::SetOf(hash, shape_.per_segment));
  }
  std::byte* SetAt(size_t segment, uint32_t set) const {
    return segments_[segment] + rows_offset_ + set * set_bytes_;
  }
  // What hotness.h knows of the row's set.
  std::byte* HotLineOf(uint32_t row_id) const {
    const uint64_t hash = HashRowId(row_id);
    const size_t segment = bucket_segments_.empty() ? 0 : bucket_segments_[BucketOf(hash)];
    return segments_[segment] + kHeaderBytes +
           uint64_t{dram::SetOf(hash, shape_.per_segment)} * kLineBytes;
  }
  static TagLine& line(std::byte* set) { return *reinterpret_cast<TagLine*>(set); }
  static uint64_t& state(std::byte* set) {
    return *reinterpret_cast<uint64_t*>(set + LayerShape::kStateOffset);
  }
  std::byte* SlotIn(std::byte* set, int way) const {
    return set + slots_offset_ + static_cast<uint64_t>(way) * stride_;
  }
  Found FindInSet(std::byte* set, uint32_t tag) const {
    const Probe probe = ProbeSet(line(set), tag);
    return {set, probe.way < 0 ? nullptr : SlotIn(set, probe.way), probe.version, probe.way};
  }

  // Of kResident; require row_id < shape().layer_rows.
  uint32_t SegmentOf(uint32_t row_id) const {
    if (reciprocal_ == 0) return row_id;
    return static_cast<uint32_t>((static_cast<unsigned __int128>(reciprocal_) * row_id) >> 64);
  }
  std::byte* SlotOf(uint32_t row_id) const {
    const uint32_t segment = SegmentOf(row_id);
    return segments_[segment] + rows_offset_ +
           uint64_t{row_id - segment * shape_.per_segment} * stride_;
  }
  // The word with the row's bit, and the bit.
  uint64_t& BitWord(uint32_t row_id) const {
    const uint32_t segment = SegmentOf(row_id);
    return reinterpret_cast<uint64_t*>(segments_[segment] +
                                       kHeaderBytes)[(row_id - segment * shape_.per_segment) / 64];
  }
  uint64_t BitOf(uint32_t row_id) const {
    return uint64_t{1} << ((row_id - SegmentOf(row_id) * shape_.per_segment) % 64);
  }
  // Acquire: the row's bytes were stored before its bit.
  bool IsThere(uint32_t row_id) const {
    return (Word(BitWord(row_id)).load(std::memory_order_acquire) & BitOf(row_id)) != 0;
  }
  // Whether every row of a resident layer is there, so that nobody need look at bits any more.
  bool Complete() const {
    if (!resident_) return false;
    for (uint32_t i = 0; i < segments_.size(); ++i) {
      // Acquire: all rows were stored before.
      if (Word(header(i).complete).load(std::memory_order_acquire) == 0) return false;
    }
    return true;
  }

  // The lines that a row may lie on. `kRowBytes` as for Copy. always_inline: g++ 12 takes a
  // function of prefetches alone for one without effect, and drops calls of it.
  template <uint32_t kRowBytes = 0>
  __attribute__((always_inline)) void PrefetchRow(const std::byte* row) const {
    const std::byte* const begin = row - reinterpret_cast<uintptr_t>(row) % kLineBytes;
    const uint64_t lines = kRowBytes == 0 ? row_lines_ : LinesOf(kRowBytes);
    // Into the second-level cache: some 14 % faster than into the first.
    for (uint64_t i = 0; i < lines; ++i) __builtin_prefetch(begin + i * kLineBytes, 0, 2);
  }

  // Copies the row's bytes to `out`, any alignment. Requires found.row. `kRowBytes` as for CopyRow.
  template <uint32_t kRowBytes = 0>
  __attribute__((always_inline)) void Copy(const Found& found, std::byte* out) const {
    CopyRow<kRowBytes>(found.row, shape_.row_bytes, out);
  }

  // Whether all that was read since Find belongs to one state of the set.
  bool Unchanged(const Found& found) const {
    if (resident_) return true;
    FenceReads();
    return IsUnchanged(&line(found.set).version, found.version);
  }

  // kCache only: sets the row's used-bit and takes its prefetch mark, and returns whether it had
  // one. Requires writable memory. Relaxed: used-bits only guide eviction, marks are only counted.
  bool MarkUsed(const Found& found) const {
    const uint64_t used = uint64_t{1} << found.way;
    const uint64_t mark = used << kPrefetchedShift;
    const auto state = Word(View::state(found.set));
    // Most reads find it as they want it and leave the line shared between cores.
    const uint64_t seen = state.load(std::memory_order_relaxed);
    if ((seen & used) == 0) state.fetch_or(used, std::memory_order_relaxed);
    return (seen & mark) != 0 && (state.fetch_and(~mark, std::memory_order_relaxed) & mark) != 0;
  }

  // kCache only: whether the row has a prefetch mark.
  bool IsMarked(const Found& found) const {
    const uint64_t mark = uint64_t{1} << (kPrefetchedShift + found.way);
    return (Word(state(found.set)).load(std::memory_order_relaxed) & mark) != 0;
  }

 private:
  template <typename T>
  static std::atomic_ref<T> Word(T& word) {
    return std::atomic_ref<T>(word);
  }

  // Rows begin at multiples of 8 bytes. Beyond 16 lines the processor itself runs ahead.
  static constexpr uint64_t LinesOf(uint64_t row_bytes) {
    return std::min<uint64_t>((row_bytes + 2 * kLineBytes - 9) / kLineBytes, 16);
  }

  LayerShape shape_;
  bool resident_ = false;
  uint64_t stride_ = 0;
  uint64_t row_lines_ = 0;
  uint64_t set_bytes_ = 0;
  uint64_t slots_offset_ = 0;
  uint64_t rows_offset_ = 0;
  uint64_t reciprocal_ = 0;
  std::vector<std::byte*> segments_;
  std::vector<uint16_t> bucket_segments_;
};

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_READER_H_
