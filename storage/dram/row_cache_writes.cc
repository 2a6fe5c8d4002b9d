#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <vector>

#include "storage/dram/row_cache_impl.h"

namespace engram {

using dram::Found;

void RowCache::Impl::Offer(absl::Span<const RowId> ids, const std::byte* rows, bool prefetched) {
  uint64_t added = 0;
  uint64_t stored = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == RowId::kDeadPosition) continue;
    const std::byte* const row = rows + i * row_bytes();
    const Stored result = view_.resident() ? StoreInPlace(Raw(ids[i]), row, prefetched)
                                           : StoreInSet(Raw(ids[i]), row, {prefetched, 0});
    stored += result != Stored::kNo;
    added += result == Stored::kOneMore;
  }
  if (added > 0) rows_held_->fetch_add(added, std::memory_order_relaxed);
  if (prefetched) counters_->stored.fetch_add(stored, std::memory_order_relaxed);
}

uint64_t RowCache::Impl::Place(absl::Span<const RowId> ids, uint32_t count, const std::byte* rows) {
  uint64_t added = 0;
  uint64_t stored = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == RowId::kDeadPosition) continue;
    const std::byte* const row = rows + i * row_bytes();
    const Stored result = view_.resident() ? StoreInPlace(Raw(ids[i]), row, false)
                                           : StoreInSet(Raw(ids[i]), row, {false, count});
    stored += result != Stored::kNo;
    added += result == Stored::kOneMore;
  }
  if (added > 0) rows_held_->fetch_add(added, std::memory_order_relaxed);
  return stored;
}

bool RowCache::Impl::HasRoomFor(uint32_t row_id, uint32_t count) const {
  const Found found = view_.Find(row_id);
  if (found.row != nullptr) return false;
  if (view_.resident()) return row_id < view_.shape().layer_rows;
  const uint64_t state =
      std::atomic_ref<uint64_t>(dram::View::state(found.set)).load(std::memory_order_relaxed);
  return hotness_->HasRoom(HotLineOf(row_id), dram::View::line(found.set), state, count);
}

// Two writers of one row may be here at once: they store the same bytes.
Stored RowCache::Impl::StoreInPlace(uint32_t row_id, const std::byte* row, bool prefetched) {
  if (row_id >= view_.shape().layer_rows || view_.IsThere(row_id)) return Stored::kNo;
  WriteRow(view_.SlotOf(row_id), row);
  if (prefetched) {
    std::atomic_ref<uint64_t>(MarkWord(row_id))
        .fetch_or(uint64_t{1} << (row_id % 64), std::memory_order_relaxed);
  }
  const uint64_t bit = view_.BitOf(row_id);
  // Release: whoever sees the bit sees the row.
  const uint64_t before =
      std::atomic_ref<uint64_t>(view_.BitWord(row_id)).fetch_or(bit, std::memory_order_acq_rel);
  if ((before & bit) != 0) return Stored::kNo;
  const uint32_t segment = view_.SegmentOf(row_id);
  // Acquire and release: the last one has seen what all others have stored.
  const uint64_t rows = segment_rows_[segment].fetch_add(1, std::memory_order_acq_rel) + 1;
  if (rows == view_.shape().UnitsOf(segment)) {
    std::atomic_ref<uint32_t>(view_.header(segment).complete).store(1, std::memory_order_release);
  }
  return Stored::kOneMore;
}

Stored RowCache::Impl::StoreInSet(uint32_t row_id, const std::byte* row, Coming coming) {
  const Found held = view_.Find(row_id);
  if (held.row != nullptr || (held.version & 1) != 0) return Stored::kNo;
  dram::TagLine& line = dram::View::line(held.set);
  std::atomic_ref<uint32_t> version(line.version);
  // Taking the set at the version that Find saw proves that no writer came between, hence that the
  // row is still not held. Acquire: the set's last writer is done before us.
  uint32_t expected = held.version;
  if (!version.compare_exchange_strong(expected, held.version + 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
    return Stored::kNo;
  }
  // Release fence: whoever reads a word stored below finds an odd or newer version afterwards.
  std::atomic_thread_fence(std::memory_order_release);
  const Stored stored = Replace(held, row_id, row, coming);
  // If nothing was changed, readers need not look again.
  version.store(held.version + (stored == Stored::kNo ? 0 : 2), std::memory_order_release);
  return stored;
}

// The caller has the set, so only readers setting used-bits and taking marks are beside us.
Stored RowCache::Impl::Replace(const Found& held, uint32_t row_id, const std::byte* row,
                               Coming coming) {
  dram::TagLine& line = dram::View::line(held.set);
  dram::HotLine& hot = HotLineOf(row_id);
  std::atomic_ref<uint64_t> state(dram::View::state(held.set));
  const uint64_t seen = state.load(std::memory_order_relaxed);
  const dram::Decision decision =
      coming.prefetched  ? hotness_->DecidePrefetched(hot, line, seen, row_id)
      : coming.count > 0 ? hotness_->DecidePlaced(hot, line, seen, row_id, coming.count)
                         : hotness_->Decide(hot, line, seen, row_id);
  const uint64_t before = state.fetch_and(~decision.clear, std::memory_order_relaxed);
  if (decision.set != 0) state.fetch_or(decision.set, std::memory_order_relaxed);
  if (decision.way < 0) return Stored::kNo;
  const uint64_t mark = uint64_t{1} << (dram::kPrefetchedShift + decision.way);
  if ((before & decision.clear & mark) != 0) {
    counters_->unused.fetch_add(1, std::memory_order_relaxed);
  }
  std::atomic_ref<uint32_t>(line.tags[decision.way])
      .store(dram::TagOf(row_id), std::memory_order_relaxed);
  WriteRow(view_.SlotIn(held.set, decision.way), row);
  return decision.was_empty ? Stored::kOneMore : Stored::kInsteadOfAnother;
}

void RowCache::Impl::CountLost(absl::Span<const std::shared_ptr<Segment>> going) const {
  const bool marked = counters_->Waiting() > 0;
  if (view_.resident()) {  // it goes as a whole
    uint64_t marks = 0;
    for (size_t i = 0; marked && i < marks_.size(); ++i) {
      marks += static_cast<uint64_t>(
          std::popcount(std::atomic_ref<uint64_t>(marks_[i]).load(std::memory_order_relaxed)));
    }
    counters_->unused.fetch_add(marks, std::memory_order_relaxed);
    return;
  }
  const bool shrinks = going.size() < set_.segments.size();
  if (!marked && !shrinks) return;
  uint64_t marks = 0;
  uint64_t rows = 0;
  for (uint32_t i = 0; i < set_.segments.size(); ++i) {
    if (std::find(going.begin(), going.end(), set_.segments[i]) == going.end()) continue;
    for (uint32_t set = 0; set < view_.shape().per_segment; ++set) {
      std::byte* const begin = view_.SetAt(i, set);
      const uint64_t state =
          std::atomic_ref<uint64_t>(dram::View::state(begin)).load(std::memory_order_relaxed);
      marks += static_cast<uint64_t>(std::popcount(state >> dram::kPrefetchedShift));
      for (uint32_t& tag : dram::View::line(begin).tags) {
        rows += std::atomic_ref<uint32_t>(tag).load(std::memory_order_relaxed) != dram::kEmptyTag;
      }
    }
  }
  counters_->unused.fetch_add(marks, std::memory_order_relaxed);
  if (shrinks) rows_held_->fetch_sub(rows, std::memory_order_relaxed);
}

void RowCache::Impl::WriteRow(std::byte* slot, const std::byte* row) const {
  auto* words = reinterpret_cast<uint64_t*>(slot);
  for (uint32_t at = 0; at < row_bytes(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row + at, std::min<size_t>(8, row_bytes() - at));
    std::atomic_ref<uint64_t>(words[at / 8]).store(word, std::memory_order_relaxed);
  }
}

void RowCache::Impl::Discard(const Impl* successor) {
  std::vector<std::shared_ptr<Segment>> going = set_.segments;
  if (successor != nullptr) {
    const std::vector<std::shared_ptr<Segment>>& kept = successor->set_.segments;
    std::erase_if(going, [&](const std::shared_ptr<Segment>& segment) {
      return std::find(kept.begin(), kept.end(), segment) != kept.end();
    });
  }
  if (!going.empty()) CountLost(going);
  discarded_ = true;
  for (const std::shared_ptr<Segment>& segment : going) segment->Discard();
}

}  // namespace engram
