#include "storage/dram/row_cache.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cstring>
#include <map>
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
#include "storage/dram/row_cache_impl.h"
#include "storage/dram/segment_set.h"
#include "storage/table/spec.h"

namespace engram {
namespace {

using dram::Found;
using dram::kWays;

// A batch is gathered by several threads in stretches of this many rows: some 40 µs of work each,
// which is what waking a thread costs.
constexpr size_t kRowsPerStretch = 512;

SegmentSetRequest RequestOf(const RowCache::Options& options) {
  return {.budget_bytes = options.budget_bytes,
          .row_bytes = options.row_bytes,
          .layer_rows = options.layer_rows,
          .table_digest = options.table_digest,
          .layer = options.layer};
}

}  // namespace

RowCache::Impl::Impl(const Options& options, SegmentSet set, const Impl* before)
    : options_(options),
      helpers_(options.helpers),
      counters_(options.counters != nullptr ? options.counters : &own_counters_),
      set_(std::move(set)),
      taken_over_rows_(before != nullptr ? before->taken_over_rows_
                                         : std::accumulate(set_.rows_held.begin(),
                                                           set_.rows_held.end(), uint64_t{0})),
      rows_held_(before != nullptr ? before->rows_held_
                                   : std::make_shared<std::atomic<uint64_t>>(0)),
      segment_rows_(set_.shape.segments) {
  std::vector<std::byte*> bases;
  for (const std::shared_ptr<Segment>& segment : set_.segments) bases.push_back(segment->data());
  view_ = dram::View(set_.shape, std::move(bases), set_.bucket_segments);
  if (view_.resident()) {
    marks_.resize((options.layer_rows + 63) / 64);
  } else {
    hotness_ = std::make_unique<dram::Hotness>(static_cast<uint32_t>(set_.shape.Slots() / kWays),
                                               options.admission);
    // Counts that an earlier cache has gathered in these segments are still good.
    hotness_->ResumeEpoch(EpochOfLines());
  }
  for (uint32_t i = 0; i < set_.shape.segments; ++i) {
    segment_rows_[i].store(set_.rows_held[i], std::memory_order_relaxed);
    if (before == nullptr) rows_held_->fetch_add(set_.rows_held[i], std::memory_order_relaxed);
    if (view_.resident() && set_.rows_held[i] == set_.shape.UnitsOf(i)) {
      std::atomic_ref<uint32_t>(view_.header(i).complete).store(1, std::memory_order_release);
    }
  }
}

// The epoch of most lines that have one, of some that are looked at.
uint32_t RowCache::Impl::EpochOfLines() const {
  constexpr uint32_t kLinesASegment = 64;
  std::array<uint32_t, 256> votes{};
  for (uint32_t i = 0; i < set_.shape.segments; ++i) {
    auto* const lines = reinterpret_cast<dram::HotLine*>(view_.segments()[i] + dram::kHeaderBytes);
    const uint32_t sets = set_.shape.per_segment;
    for (uint32_t at = 0; at < sets; at += std::max(1u, sets / kLinesASegment)) {
      ++votes[std::atomic_ref<uint8_t>(lines[at].epoch).load(std::memory_order_relaxed)];
    }
  }
  // Those of new segments, and of sets that nobody has touched, say nothing.
  votes[0] = 0;
  return static_cast<uint32_t>(std::max_element(votes.begin(), votes.end()) - votes.begin());
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
  if (row_id == dram::kDeadPosition) return;
  const Found found = view_.Find(row_id);
  if (!view_.resident()) {
    hotness_->Touch(HotLineOf(row_id), dram::View::line(found.set), row_id, weight);
  }
  // A set that is changing meanwhile may get a used-bit too many, which is not worth a check.
  if (found.row == nullptr) return;
  const bool first = view_.resident() ? TakePlaceMark(row_id) : view_.MarkUsed(found);
  if (first) counters_->used.fetch_add(1, std::memory_order_relaxed);
}

const char* RowCache::Impl::Kind() const {
  if (view_.resident()) return "resident";
  if (hotness_->admission() != dram::Admission::kAdaptive) return "cache";
  return hotness_->policy() == dram::Policy::kRecency ? "cache by recency" : "cache by frequency";
}

TierUsage RowCache::Impl::Usage() const {
  TierUsage usage;
  usage.on = true;
  uint64_t huge = 0;
  std::map<int, uint64_t> nodes;
  for (const std::shared_ptr<Segment>& segment : set_.segments) {
    usage.capacity_bytes += segment->bytes();
    huge += segment->huge_bytes();
    if (segment->node() >= 0) nodes[segment->node()] += segment->bytes();
  }
  const uint64_t mapped = usage.capacity_bytes;
  usage.capacity_bytes += view_.shape().HeapBytes();
  usage.note = absl::StrCat(
      Kind(), ", ",
      huge == 0 ? "4 KiB pages"
                : absl::StrCat(FormatSize(huge), " of ", FormatSize(mapped), " in huge pages"));
  for (const auto& [node, bytes] : nodes) {
    absl::StrAppend(&usage.note, ", ", FormatSize(bytes), " on NUMA node ", node);
  }
  usage.rows = rows_held_->load(std::memory_order_relaxed);
  usage.bytes = usage.rows * row_bytes();
  return usage;
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
  ENGRAM_ASSIGN_OR_RETURN(SegmentSet set, MakeSegmentSet(*options.segments, RequestOf(options)));
  auto impl = std::make_unique<Impl>(options, std::move(set));
  return std::unique_ptr<RowCache>(new RowCache(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<RowCache>> RowCache::Resize(uint64_t budget_bytes) const {
  Options options = impl_->options();
  options.budget_bytes = budget_bytes;
  ENGRAM_ASSIGN_OR_RETURN(SegmentSet set,
                          ResizeSegmentSet(*options.segments, RequestOf(options), impl_->set()));
  if (set.segments == impl_->set().segments) return nullptr;
  auto impl = std::make_unique<Impl>(options, std::move(set), impl_.get());
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
  return id != RowId::kDeadPosition && impl_->HasRoomFor(Raw(id), count);
}

void RowCache::Recall(RowId id, uint32_t count) {
  if (id != RowId::kDeadPosition && impl_->hotness() != nullptr) {
    dram::RecallRow(impl_->view(), *impl_->hotness(), Raw(id), count);
  }
}

uint64_t RowCache::Units() const { return dram::UnitsIn(impl_->view()); }

void RowCache::VisitHeld(uint64_t first, uint64_t units,
                         absl::FunctionRef<void(RowId id, uint32_t count)> visit) const {
  dram::VisitHeldRows(impl_->view(), impl_->hotness(), first, units, visit);
}

bool RowCache::Peek(RowId id, absl::Span<std::byte> out) const {
  if (id == RowId::kDeadPosition || out.size() != impl_->row_bytes()) return false;
  return dram::ReadOne(impl_->view(), Raw(id), out.data()).row != nullptr;
}

RowCache::Presence RowCache::Look(RowId id) const {
  return id == RowId::kDeadPosition ? Presence::kAbsent : impl_->Look(Raw(id));
}

void RowCache::Touch(RowId id, uint32_t weight) { impl_->Touch(Raw(id), weight); }

uint64_t RowCache::taken_over_rows() const { return impl_->taken_over_rows(); }

uint64_t RowCache::times_forgotten() const { return impl_->times_forgotten(); }

dram::Policy RowCache::policy() const {
  return impl_->hotness() == nullptr ? dram::Policy::kFrequency : impl_->hotness()->policy();
}

const dram::LayerShape& RowCache::shape() const { return impl_->view().shape(); }

const std::vector<std::shared_ptr<Segment>>& RowCache::segments() const {
  return impl_->set().segments;
}

const std::vector<uint16_t>& RowCache::bucket_segments() const {
  return impl_->set().bucket_segments;
}

void RowCache::Discard(const RowCache* successor) {
  impl_->Discard(successor == nullptr ? nullptr : successor->impl_.get());
}

}  // namespace engram
