#include "storage/dram/row_cache.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cassert>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"
#include "storage/dram/gather.h"
#include "storage/dram/held_rows.h"
#include "storage/dram/hotness.h"
#include "storage/dram/layout.h"
#include "storage/dram/reader.h"
#include "storage/dram/segment_set.h"
#include "storage/table/spec.h"

namespace engram {
namespace {

using dram::Found;
using dram::kWays;

// A batch is gathered by several threads in stretches of this many rows: some 40 µs of work each,
// which is what waking a thread costs.
constexpr size_t kRowsPerStretch = 512;

}  // namespace

// What came of an offered row.
enum class Stored { kNo, kInsteadOfAnother, kOneMore };

class RowCache::Impl {
 public:
  Impl(const Options& options, SegmentSet set);
  ~Impl() {
    if (!discarded_) CountMarksLeft();
  }

  const dram::View& view() const { return view_; }
  const SegmentSet& set() const { return set_; }
  uint32_t row_bytes() const { return view_.shape().row_bytes; }

  void Read(RowBatch& batch) const;
  void Offer(absl::Span<const RowId> ids, const std::byte* rows, bool prefetched);
  uint64_t Place(absl::Span<const RowId> ids, uint32_t count, const std::byte* rows);
  bool HasRoomFor(uint32_t row_id, uint32_t count) const;
  dram::Hotness* hotness() const { return hotness_.get(); }
  Presence Look(uint32_t row_id) const;
  void Touch(uint32_t row_id, uint32_t weight) const;
  TierUsage Usage() const;
  void Discard();

 private:
  // What dram::Gather wants of a batch.
  struct GatherBatch;

  size_t Gather(const RowBatch& batch, absl::Span<uint32_t> positions) const;
  bool TakePlaceMark(uint32_t row_id) const;
  bool IsMarked(const Found& found, uint32_t row_id) const;
  bool Complete() const;
  // How a row comes here: `count` is known of one that is placed, else 0.
  struct Coming {
    bool prefetched = false;
    uint32_t count = 0;
  };
  Stored StoreInSet(uint32_t row_id, const std::byte* row, Coming coming);
  Stored StoreInPlace(uint32_t row_id, const std::byte* row, bool prefetched);
  Stored Replace(const Found& held, uint32_t row_id, const std::byte* row, Coming coming);
  // Prefetched rows that nobody has read, in the memory itself: they are going.
  void CountMarksLeft() const;
  void WriteRow(std::byte* slot, const std::byte* row) const;
  uint64_t& MarkWord(uint32_t row_id) const { return marks_[row_id / 64]; }
  dram::HotLine& HotLineOf(uint32_t row_id) const {
    return *reinterpret_cast<dram::HotLine*>(view_.HotLineOf(row_id));
  }

  WorkPool* const helpers_;
  PrefetchCounters own_counters_;
  PrefetchCounters* const counters_;
  SegmentSet set_;
  dram::View view_;
  std::unique_ptr<dram::Hotness> hotness_;  // null if resident
  // Relaxed: only so that all positions of batches are sampled in turn.
  mutable std::atomic<uint32_t> sample_phase_{0};
  // Of a resident layer, a bit a row: a prefetch brought it, and nobody has read it.
  mutable std::vector<uint64_t> marks_;
  // Relaxed: once it is true, what made it so has been seen by whoever stored it, and rows are
  // found through their bits until then.
  mutable std::atomic<bool> complete_{false};
  // Statistics only, so relaxed is enough.
  std::atomic<uint64_t> rows_held_{0};
  bool discarded_ = false;
  std::vector<std::atomic<uint64_t>> segment_rows_;  // of a resident layer, acquire and release
};

RowCache::Impl::Impl(const Options& options, SegmentSet set)
    : helpers_(options.helpers),
      counters_(options.counters != nullptr ? options.counters : &own_counters_),
      set_(std::move(set)),
      segment_rows_(set_.shape.segments) {
  std::vector<std::byte*> bases;
  for (const std::shared_ptr<Segment>& segment : set_.segments) bases.push_back(segment->data());
  view_ = dram::View(set_.shape, std::move(bases), set_.bucket_segments);
  if (view_.resident()) {
    marks_.resize((options.layer_rows + 63) / 64);
  } else {
    hotness_ = std::make_unique<dram::Hotness>(static_cast<uint32_t>(set_.shape.Slots() / kWays),
                                               options.admission);
  }
  for (uint32_t i = 0; i < set_.shape.segments; ++i) {
    segment_rows_[i].store(set_.rows_held[i], std::memory_order_relaxed);
    rows_held_.fetch_add(set_.rows_held[i], std::memory_order_relaxed);
    if (view_.resident() && set_.rows_held[i] == set_.shape.UnitsOf(i)) {
      std::atomic_ref<uint32_t>(view_.header(i).complete).store(1, std::memory_order_release);
    }
  }
}

struct RowCache::Impl::GatherBatch {
  static constexpr bool kReadsState = true;

  const Impl& impl;
  const RowBatch& batch;
  const RowId* const ids = batch.ids().data();
  const uint32_t* const positions;
  const bool marks_are_set;
  const bool uses_bits;  // what is evicted depends on used-bits
  const uint32_t phase;
  uint64_t first_uses = 0;

  uint32_t position(size_t i) const { return positions[i]; }
  uint32_t id(uint32_t position) const { return Raw(ids[position]); }
  std::byte* row(uint32_t position) const { return batch.row(position); }
  void HitInSet(uint32_t position, const Found& found) {
    if (uses_bits || marks_are_set) first_uses += impl.view_.MarkUsed(found);
    if ((position + phase) % dram::kSampleEvery == 0) {
      impl.hotness_->Touch(impl.HotLineOf(id(position)), dram::View::line(found.set), id(position),
                           dram::kSampleEvery);
    }
  }
  void DeadPosition() const {}
  void HitResident(uint32_t position) {
    if (marks_are_set) first_uses += impl.TakePlaceMark(id(position));
  }
};

bool RowCache::Impl::TakePlaceMark(uint32_t row_id) const {
  const std::atomic_ref<uint64_t> word(MarkWord(row_id));
  const uint64_t mark = uint64_t{1} << (row_id % 64);
  return (word.load(std::memory_order_relaxed) & mark) != 0 &&
         (word.fetch_and(~mark, std::memory_order_relaxed) & mark) != 0;
}

bool RowCache::Impl::Complete() const {
  if (complete_.load(std::memory_order_acquire)) return true;
  if (!view_.Complete()) return false;
  complete_.store(true, std::memory_order_release);
  return true;
}

void RowCache::Impl::Read(RowBatch& batch) const {
  std::vector<uint32_t>& missing = batch.missing();
  const absl::Span<uint32_t> all = absl::MakeSpan(missing);
  const size_t stretches = (all.size() + kRowsPerStretch - 1) / kRowsPerStretch;
  if (helpers_ == nullptr || stretches < 2) {
    missing.resize(Gather(batch, all));
    return;
  }
  std::vector<size_t> kept(stretches);
  helpers_->Run(stretches, [&](size_t i) {
    kept[i] = Gather(batch, all.subspan(i * kRowsPerStretch, kRowsPerStretch));
  });
  size_t total = 0;
  for (size_t i = 0; i < stretches; ++i) {
    const auto first = all.begin() + i * kRowsPerStretch;
    std::copy(first, first + kept[i], all.begin() + total);
    total += kept[i];
  }
  missing.resize(total);
}

// Fills the rows at these positions, leaves those that are not held at the front of `positions`, in
// their order, and returns how many those are.
size_t RowCache::Impl::Gather(const RowBatch& batch, absl::Span<uint32_t> positions) const {
  GatherBatch rows{
      .impl = *this,
      .batch = batch,
      .positions = positions.data(),
      .marks_are_set = counters_->Waiting() > 0,
      .uses_bits = !view_.resident() && hotness_->admission() != dram::Admission::kFrequency,
      .phase = sample_phase_.fetch_add(1, std::memory_order_relaxed)};
  const size_t kept = dram::Gather(view_, rows, positions.size(), positions.data(), Complete());
  if (rows.first_uses > 0) {
    counters_->used.fetch_add(rows.first_uses, std::memory_order_relaxed);
  }
  return kept;
}

RowCache::Presence RowCache::Impl::Look(uint32_t row_id) const {
  for (int attempt = 0; attempt < dram::kReadAttempts; ++attempt) {
    const Found found = view_.Find(row_id);
    const bool unread = found.row != nullptr && IsMarked(found, row_id);
    if (view_.Unchanged(found)) {
      if (found.row == nullptr) return Presence::kAbsent;
      return unread ? Presence::kUnread : Presence::kHeld;
    }
    __builtin_ia32_pause();
  }
  return Presence::kAbsent;
}

bool RowCache::Impl::IsMarked(const Found& found, uint32_t row_id) const {
  if (!view_.resident()) return view_.IsMarked(found);
  const std::atomic_ref<uint64_t> word(MarkWord(row_id));
  return (word.load(std::memory_order_relaxed) >> (row_id % 64) & 1) != 0;
}

void RowCache::Impl::Touch(uint32_t row_id, uint32_t weight) const {
  if (row_id == dram::kNoRowId) return;
  const Found found = view_.Find(row_id);
  if (!view_.resident()) {
    hotness_->Touch(HotLineOf(row_id), dram::View::line(found.set), row_id, weight);
  }
  // A set that is changing meanwhile may get a used-bit too many, which is not worth a check.
  if (found.row == nullptr) return;
  const bool first = view_.resident() ? TakePlaceMark(row_id) : view_.MarkUsed(found);
  if (first) counters_->used.fetch_add(1, std::memory_order_relaxed);
}

void RowCache::Impl::Offer(absl::Span<const RowId> ids, const std::byte* rows, bool prefetched) {
  uint64_t added = 0;
  uint64_t stored = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == kZeroRow) continue;
    const std::byte* const row = rows + i * row_bytes();
    const Stored result = view_.resident() ? StoreInPlace(Raw(ids[i]), row, prefetched)
                                           : StoreInSet(Raw(ids[i]), row, {prefetched, 0});
    stored += result != Stored::kNo;
    added += result == Stored::kOneMore;
  }
  if (added > 0) rows_held_.fetch_add(added, std::memory_order_relaxed);
  if (prefetched) counters_->stored.fetch_add(stored, std::memory_order_relaxed);
}

uint64_t RowCache::Impl::Place(absl::Span<const RowId> ids, uint32_t count, const std::byte* rows) {
  uint64_t added = 0;
  uint64_t stored = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == kZeroRow) continue;
    const std::byte* const row = rows + i * row_bytes();
    const Stored result = view_.resident() ? StoreInPlace(Raw(ids[i]), row, false)
                                           : StoreInSet(Raw(ids[i]), row, {false, count});
    stored += result != Stored::kNo;
    added += result == Stored::kOneMore;
  }
  if (added > 0) rows_held_.fetch_add(added, std::memory_order_relaxed);
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

void RowCache::Impl::CountMarksLeft() const {
  if (counters_->Waiting() == 0) return;
  uint64_t marks = 0;
  for (uint64_t& word : marks_) {
    marks += static_cast<uint64_t>(
        std::popcount(std::atomic_ref<uint64_t>(word).load(std::memory_order_relaxed)));
  }
  for (size_t i = 0; !view_.resident() && i < view_.segments().size(); ++i) {
    for (uint32_t set = 0; set < view_.shape().per_segment; ++set) {
      const uint64_t state = std::atomic_ref<uint64_t>(dram::View::state(view_.SetAt(i, set)))
                                 .load(std::memory_order_relaxed);
      marks += static_cast<uint64_t>(std::popcount(state >> dram::kPrefetchedShift));
    }
  }
  counters_->unused.fetch_add(marks, std::memory_order_relaxed);
}

void RowCache::Impl::WriteRow(std::byte* slot, const std::byte* row) const {
  auto* words = reinterpret_cast<uint64_t*>(slot);
  for (uint32_t at = 0; at < row_bytes(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row + at, std::min<size_t>(8, row_bytes() - at));
    std::atomic_ref<uint64_t>(words[at / 8]).store(word, std::memory_order_relaxed);
  }
}

TierUsage RowCache::Impl::Usage() const {
  TierUsage usage;
  usage.on = true;
  uint64_t huge = 0;
  for (const std::shared_ptr<Segment>& segment : set_.segments) {
    usage.capacity_bytes += segment->bytes();
    huge += segment->huge_bytes();
  }
  const uint64_t mapped = usage.capacity_bytes;
  usage.capacity_bytes += view_.shape().HeapBytes();
  usage.note = absl::StrCat(
      view_.resident() ? "resident" : "cache", ", ",
      huge == 0 ? "4 KiB pages"
                : absl::StrCat(FormatSize(huge), " of ", FormatSize(mapped), " in huge pages"));
  usage.rows = rows_held_.load(std::memory_order_relaxed);
  usage.bytes = usage.rows * row_bytes();
  return usage;
}

void RowCache::Impl::Discard() {
  CountMarksLeft();
  discarded_ = true;
  for (const std::shared_ptr<Segment>& segment : set_.segments) segment->Discard();
}

absl::StatusOr<std::unique_ptr<RowCache>> RowCache::Create(const Options& options) {
  if (options.row_bytes == 0 || options.row_bytes > kMaxRowBytes) {
    return absl::InvalidArgumentError(absl::StrCat("row_bytes is ", options.row_bytes,
                                                   "; a row has 1 to ", kMaxRowBytes, " bytes"));
  }
  if (options.layer_rows == 0 || options.layer_rows > kMaxLayerRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer_rows is ", options.layer_rows, "; a layer has 1 to ", kMaxLayerRows));
  }
  ENGRAM_ASSIGN_OR_RETURN(SegmentSet set,
                          MakeSegmentSet(*options.segments, {.budget_bytes = options.budget_bytes,
                                                             .row_bytes = options.row_bytes,
                                                             .layer_rows = options.layer_rows,
                                                             .table_digest = options.table_digest,
                                                             .layer = options.layer}));
  auto impl = std::make_unique<Impl>(options, std::move(set));
  return std::unique_ptr<RowCache>(new RowCache(std::move(impl)));
}

RowCache::RowCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RowCache::~RowCache() = default;

void RowCache::Read(RowBatch& batch) {
  // Rows of another size are not ours; leaving them missing is always right.
  if (batch.row_bytes() == impl_->row_bytes()) impl_->Read(batch);
}

TierUsage RowCache::Usage() const { return impl_->Usage(); }

void RowCache::Offer(absl::Span<const RowId> ids, absl::Span<const std::byte> rows, Source source) {
  assert(rows.size() == ids.size() * impl_->row_bytes());
  impl_->Offer(ids, rows.data(), source == Source::kPrefetch);
}

uint64_t RowCache::Place(absl::Span<const RowId> ids, uint32_t count,
                         absl::Span<const std::byte> rows) {
  assert(rows.size() == ids.size() * impl_->row_bytes());
  return impl_->Place(ids, std::clamp(count, 1u, dram::kMaxCount), rows.data());
}

bool RowCache::HasRoomFor(RowId id, uint32_t count) const {
  return id != kZeroRow && impl_->HasRoomFor(Raw(id), count);
}

void RowCache::Recall(RowId id, uint32_t count) {
  if (id != kZeroRow && impl_->hotness() != nullptr) {
    dram::RecallRow(impl_->view(), *impl_->hotness(), Raw(id), count);
  }
}

uint64_t RowCache::Units() const { return dram::UnitsIn(impl_->view()); }

void RowCache::VisitHeld(uint64_t first, uint64_t units,
                         absl::FunctionRef<void(RowId id, uint32_t count)> visit) const {
  dram::VisitHeldRows(impl_->view(), impl_->hotness(), first, units, visit);
}

bool RowCache::Peek(RowId id, absl::Span<std::byte> out) const {
  if (id == kZeroRow || out.size() != impl_->row_bytes()) return false;
  return dram::ReadOne(impl_->view(), Raw(id), out.data()).row != nullptr;
}

RowCache::Presence RowCache::Look(RowId id) const {
  return id == kZeroRow ? Presence::kAbsent : impl_->Look(Raw(id));
}

void RowCache::Touch(RowId id, uint32_t weight) { impl_->Touch(Raw(id), weight); }

const dram::LayerShape& RowCache::shape() const { return impl_->view().shape(); }

const std::vector<std::shared_ptr<Segment>>& RowCache::segments() const {
  return impl_->set().segments;
}

const std::vector<uint16_t>& RowCache::bucket_segments() const {
  return impl_->set().bucket_segments;
}

void RowCache::Discard() { impl_->Discard(); }

}  // namespace engram
