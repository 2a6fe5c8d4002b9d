#include "storage/dram/segment_set.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/dram/fit_shape.h"
#include "storage/dram/reader.h"

namespace engram {
namespace {

using dram::LayerShape;
using dram::Mode;
using dram::SegmentHeader;

SegmentHeader HeaderFor(const LayerShape& shape, const SegmentSetRequest& request) {
  SegmentHeader header{};
  header.mode = shape.mode;
  header.row_bytes = shape.row_bytes;
  header.layer = request.layer;
  header.layer_rows = shape.layer_rows;
  header.page_bytes = shape.page_bytes;
  header.per_segment = shape.per_segment;
  const size_t length = std::min(request.table_digest.size(), dram::kMaxDigest);
  std::memcpy(header.table_digest, request.table_digest.data(), length);
  return header;
}

// Cache segments that were made for another budget are as good: fewer or more of them. Not so if
// they would leave more than `spare_bytes` of this one unused.
void KeepSizeOf(uint32_t per_segment, uint64_t budget_bytes, uint64_t spare_bytes,
                LayerShape& shape) {
  LayerShape kept = shape;
  kept.per_segment = per_segment;
  if (kept.per_segment == 0) return;
  kept.segments = 1;
  const uint64_t each = kept.SegmentBytes(0);
  kept.segments =
      static_cast<uint32_t>(std::min<uint64_t>(budget_bytes / each, dram::kMaxSegments));
  while (kept.segments > 0 && kept.TotalBytes() + kept.HeapBytes() > budget_bytes) --kept.segments;
  if (kept.TotalBytes() + spare_bytes >= budget_bytes) shape = kept;
}

// Sets that a writer had taken when it died are emptied; readers see it as one more change. Returns
// how many there were, and counts the rows of all others.
uint64_t CheckSets(const dram::View& view, uint32_t segment, uint64_t& rows) {
  uint64_t dropped = 0;
  for (uint32_t set = 0; set < view.shape().per_segment; ++set) {
    std::byte* const begin = view.SetAt(segment, set);
    dram::TagLine& line = dram::View::line(begin);
    std::atomic_ref<uint32_t> version(line.version);
    const uint32_t seen = version.load(std::memory_order_acquire);
    if ((seen & 1) == 0) {
      for (uint32_t& tag : line.tags) rows += tag != dram::kEmptyTag;
      continue;
    }
    ++dropped;
    std::atomic_thread_fence(std::memory_order_release);
    for (uint32_t& tag : line.tags) {
      std::atomic_ref<uint32_t>(tag).store(dram::kEmptyTag, std::memory_order_relaxed);
    }
    std::atomic_ref<uint64_t>(dram::View::state(begin)).store(0, std::memory_order_relaxed);
    version.store(seen + 1, std::memory_order_release);
  }
  return dropped;
}

uint64_t CountBits(const dram::View& view, uint32_t segment) {
  const uint32_t first = segment * view.shape().per_segment;
  uint64_t rows = 0;
  for (uint32_t i = 0; i < view.shape().UnitsOf(segment); i += 64) {
    rows += static_cast<uint64_t>(std::popcount(view.BitWord(first + i)));
  }
  return rows;
}

// Each bucket to one segment, evenly. Buckets that a segment has had stay with it as far as that
// goes, for their rows are there. Empty if there is only one, which has them all.
std::vector<uint16_t> ShareOutBuckets(const std::vector<std::shared_ptr<Segment>>& segments) {
  const size_t count = segments.size();
  constexpr uint16_t kNobody = 0xFFFF;
  std::vector<uint16_t> owner(dram::kBuckets, kNobody);
  std::vector<uint32_t> owned(count);
  const auto most = static_cast<uint32_t>((dram::kBuckets + count - 1) / count);
  for (uint32_t bucket = 0; bucket < dram::kBuckets; ++bucket) {
    for (size_t i = 0; i < count && owner[bucket] == kNobody; ++i) {
      const bool had = (segments[i]->header().buckets[bucket / 64] >> (bucket % 64) & 1) != 0;
      if (!had || owned[i] == most) continue;
      owner[bucket] = static_cast<uint16_t>(i);
      ++owned[i];
    }
  }
  size_t next = 0;
  for (uint16_t& one : owner) {
    if (one != kNobody) continue;
    // The first with the fewest, from where the last one was given: so all fill up evenly.
    size_t least = next;
    for (size_t i = 0; i < count; ++i) {
      const size_t candidate = (next + i) % count;
      if (owned[candidate] < owned[least]) least = candidate;
    }
    one = static_cast<uint16_t>(least);
    ++owned[least];
    next = (least + 1) % count;
  }
  for (size_t i = 0; i < count; ++i) {
    auto& header = *reinterpret_cast<SegmentHeader*>(segments[i]->data());
    std::memset(header.buckets, 0, sizeof(header.buckets));
    for (uint32_t bucket = 0; bucket < dram::kBuckets; ++bucket) {
      if (owner[bucket] == i) header.buckets[bucket / 64] |= uint64_t{1} << (bucket % 64);
    }
  }
  if (count == 1) owner.clear();
  return owner;
}

// Which of the segments found can be used, in their places; the others are given up.
std::vector<std::shared_ptr<Segment>> Choose(std::vector<std::shared_ptr<Segment>> found,
                                             const LayerShape& shape) {
  std::vector<std::shared_ptr<Segment>> chosen(shape.segments);
  size_t next = 0;
  for (std::shared_ptr<Segment>& segment : found) {
    const SegmentHeader& header = segment->header();
    const bool resident = shape.mode == Mode::kResident;
    const size_t at = resident ? header.index : next;
    if (header.mode == shape.mode && header.per_segment == shape.per_segment &&
        at < chosen.size() && chosen[at] == nullptr &&
        segment->bytes() == shape.SegmentBytes(static_cast<uint32_t>(at))) {
      chosen[at] = std::move(segment);
      ++next;
    } else {
      segment->Discard();
    }
  }
  return chosen;
}

// The layout that fits best; an error if the budget holds not one set.
absl::StatusOr<LayerShape> BestShape(const SegmentStore& store, const SegmentSetRequest& request) {
  const LayerShape shape = dram::FitShape(request.budget_bytes, request.row_bytes,
                                          request.layer_rows, store.page_bytes());
  if (shape.segments > 0) return shape;
  LayerShape least = shape;
  least.segments = least.per_segment = 1;
  return absl::InvalidArgumentError(
      absl::StrCat("a DRAM budget of ", request.budget_bytes, " bytes is too small for rows of ",
                   request.row_bytes, " bytes: the least is ", least.SegmentBytes(0),
                   " bytes; raise it, or turn the tier off"));
}

// Makes those segments of the set that are null. If one is not to be had, those made are given
// back.
absl::Status MakeMissing(SegmentStore& store, const SegmentSetRequest& request, SegmentSet& set) {
  std::vector<uint32_t> made;
  for (uint32_t i = 0; i < set.shape.segments; ++i) {
    if (set.segments[i] != nullptr) continue;
    SegmentHeader header = HeaderFor(set.shape, request);
    header.index = set.shape.mode == Mode::kResident ? i : 0;
    absl::StatusOr<std::shared_ptr<Segment>> segment =
        store.Create(header, set.shape.SegmentBytes(i));
    if (!segment.ok()) {
      for (const uint32_t index : made) set.segments[index]->Discard();
      return segment.status();
    }
    set.segments[i] = *std::move(segment);
    made.push_back(i);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SegmentSet> MakeSegmentSet(SegmentStore& store, const SegmentSetRequest& request) {
  SegmentSet set;
  ENGRAM_ASSIGN_OR_RETURN(set.shape, BestShape(store, request));
  std::vector<std::shared_ptr<Segment>> found = store.Adopt(HeaderFor(set.shape, request));
  if (!found.empty() && set.shape.mode == Mode::kCache &&
      found.front()->header().mode == Mode::kCache) {
    KeepSizeOf(found.front()->header().per_segment, request.budget_bytes, request.budget_bytes / 10,
               set.shape);
  }
  set.segments = Choose(std::move(found), set.shape);
  std::vector<bool> is_new;
  for (const std::shared_ptr<Segment>& segment : set.segments) is_new.push_back(segment == nullptr);
  if (const absl::Status status = MakeMissing(store, request, set); !status.ok()) {
    for (const std::shared_ptr<Segment>& segment : set.segments) {
      if (segment != nullptr) segment->Discard();
    }
    return status;
  }
  if (set.shape.mode == Mode::kCache) set.bucket_segments = ShareOutBuckets(set.segments);
  std::vector<std::byte*> bases;
  for (const std::shared_ptr<Segment>& segment : set.segments) bases.push_back(segment->data());
  const dram::View view(set.shape, std::move(bases), set.bucket_segments);
  set.rows_held.resize(set.shape.segments);
  for (uint32_t i = 0; i < set.shape.segments; ++i) {
    if (is_new[i]) continue;
    if (set.shape.mode == Mode::kCache) {
      set.sets_dropped += CheckSets(view, i, set.rows_held[i]);
    } else {
      set.rows_held[i] = CountBits(view, i);
    }
  }
  return set;
}

absl::StatusOr<SegmentSet> ResizeSegmentSet(SegmentStore& store, const SegmentSetRequest& request,
                                            const SegmentSet& current) {
  SegmentSet set;
  ENGRAM_ASSIGN_OR_RETURN(set.shape, BestShape(store, request));
  if (set.shape == current.shape) return current;
  if (set.shape.mode == Mode::kCache && current.shape.mode == Mode::kCache) {
    KeepSizeOf(current.shape.per_segment, request.budget_bytes, request.budget_bytes / 4,
               set.shape);
  }
  if (set.shape.mode == Mode::kResident || current.shape.mode == Mode::kResident ||
      set.shape.per_segment != current.shape.per_segment) {
    return absl::FailedPreconditionError("the budget asks for another layout");
  }
  if (set.shape.segments == current.shape.segments) return current;
  const size_t kept = std::min(set.shape.segments, current.shape.segments);
  set.segments.assign(current.segments.begin(), current.segments.begin() + kept);
  set.segments.resize(set.shape.segments);
  ENGRAM_RETURN_IF_ERROR(MakeMissing(store, request, set));
  set.bucket_segments = ShareOutBuckets(set.segments);
  set.rows_held.resize(set.shape.segments);
  return set;
}

}  // namespace engram
