// RowCache's inside, for its two source files: row_cache.cc makes and reads, row_cache_writes.cc
// stores, replaces and gives up.
#ifndef ENGRAM_STORAGE_DRAM_ROW_CACHE_IMPL_H_
#define ENGRAM_STORAGE_DRAM_ROW_CACHE_IMPL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "storage/dram/hotness.h"
#include "storage/dram/layout.h"
#include "storage/dram/reader.h"
#include "storage/dram/row_cache.h"
#include "storage/dram/segment_set.h"

namespace engram {

// What came of an offered row.
enum class Stored { kNo, kInsteadOfAnother, kOneMore };

class RowCache::Impl {
 public:
  // `before` is what it was resized from, if anything.
  Impl(const Options& options, SegmentSet set, const Impl* before = nullptr);
  ~Impl() {
    if (!discarded_) CountLost(set_.segments);
  }

  const dram::View& view() const { return view_; }
  const SegmentSet& set() const { return set_; }
  const Options& options() const { return options_; }
  uint32_t row_bytes() const { return view_.shape().row_bytes; }
  uint64_t taken_over_rows() const { return taken_over_rows_; }
  uint64_t times_forgotten() const { return hotness_ == nullptr ? 0 : hotness_->times_forgotten(); }

  void Read(RowBatch& batch) const;
  void Offer(absl::Span<const RowId> ids, const std::byte* rows, bool prefetched);
  uint64_t Place(absl::Span<const RowId> ids, uint32_t count, const std::byte* rows);
  bool HasRoomFor(uint32_t row_id, uint32_t count) const;
  dram::Hotness* hotness() const { return hotness_.get(); }
  Presence Look(uint32_t row_id) const;
  void Touch(uint32_t row_id, uint32_t weight) const;
  TierUsage Usage() const;
  void Discard(const Impl* successor);

 private:
  // What dram::Gather wants of a batch.
  struct GatherBatch;

  size_t Gather(const RowBatch& batch, absl::Span<uint32_t> positions) const;
  bool TakePlaceMark(uint32_t row_id) const;
  bool IsMarked(const dram::Found& found, uint32_t row_id) const;
  bool Complete() const;
  // How a row comes here: `count` is known of one that is placed, else 0.
  struct Coming {
    bool prefetched = false;
    uint32_t count = 0;
  };
  Stored StoreInSet(uint32_t row_id, const std::byte* row, Coming coming);
  Stored StoreInPlace(uint32_t row_id, const std::byte* row, bool prefetched);
  Stored Replace(const dram::Found& held, uint32_t row_id, const std::byte* row, Coming coming);
  const char* Kind() const;
  uint32_t EpochOfLines() const;
  // These segments are going, and with them their rows and prefetched rows that nobody has read.
  void CountLost(absl::Span<const std::shared_ptr<Segment>> going) const;
  void WriteRow(std::byte* slot, const std::byte* row) const;
  uint64_t& MarkWord(uint32_t row_id) const { return marks_[row_id / 64]; }
  dram::HotLine& HotLineOf(uint32_t row_id) const {
    return *reinterpret_cast<dram::HotLine*>(view_.HotLineOf(row_id));
  }

  const Options options_;
  WorkPool* const helpers_;
  PrefetchCounters own_counters_;
  PrefetchCounters* const counters_;
  SegmentSet set_;
  const uint64_t taken_over_rows_;
  dram::View view_;
  std::unique_ptr<dram::Hotness> hotness_;  // null if resident
  // Relaxed: only so that all positions of batches are sampled in turn.
  mutable std::atomic<uint32_t> sample_phase_{0};
  // Of a resident layer, a bit a row: a prefetch brought it, and nobody has read it.
  mutable std::vector<uint64_t> marks_;
  // Relaxed: the thread that stores true has seen every row's bit, and until then rows are found
  // through their bits.
  mutable std::atomic<bool> complete_{false};
  // Statistics only, so relaxed is enough. Shared with the cache that this one was resized from.
  const std::shared_ptr<std::atomic<uint64_t>> rows_held_;
  bool discarded_ = false;
  std::vector<std::atomic<uint64_t>> segment_rows_;  // of a resident layer, acquire and release
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_ROW_CACHE_IMPL_H_
