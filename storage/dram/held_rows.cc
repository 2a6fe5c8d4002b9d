#include "storage/dram/held_rows.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "storage/dram/gather.h"
#include "storage/dram/layout.h"

namespace engram::dram {
namespace {

constexpr uint32_t kEmpty = kEmptyTag;

struct SetContent {
  std::array<uint32_t, kWays> tags;
  std::array<uint32_t, kWays> counts;
};

// False if a writer has the set, or comes in between.
bool TryRead(const View& view, Hotness& hotness, std::byte* set, HotLine& line,
             SetContent& content) {
  // No row has this tag, so nothing is found, but the set's version.
  const Found found = view.FindInSet(set, kEmpty);
  TagLine& tags = View::line(set);
  for (uint32_t way = 0; way < kWays; ++way) {
    content.tags[way] = std::atomic_ref<uint32_t>(tags.tags[way]).load(std::memory_order_relaxed);
    content.counts[way] = hotness.CountOf(line, static_cast<int>(way));
  }
  return view.Unchanged(found);
}

void VisitSet(const View& view, Hotness& hotness, uint64_t unit,
              absl::FunctionRef<void(RowId id, uint32_t count)> visit) {
  const uint32_t per_segment = view.shape().per_segment;
  const uint64_t segment = unit / per_segment;
  const auto number = static_cast<uint32_t>(unit % per_segment);
  std::byte* const set = view.SetAt(segment, number);
  auto& line = *reinterpret_cast<HotLine*>(view.segments()[segment] + kHeaderBytes +
                                           uint64_t{number} * kLineBytes);
  SetContent content{};
  int attempt = 0;
  while (!TryRead(view, hotness, set, line, content)) {
    if (++attempt == kReadAttempts) return;
    __builtin_ia32_pause();
  }
  for (uint32_t way = 0; way < kWays; ++way) {
    if (content.tags[way] == kEmpty) continue;
    visit(RowId{TagOf(content.tags[way])}, std::max(1u, content.counts[way]));
  }
}

}  // namespace

uint64_t UnitsIn(const View& view) {
  if (view.resident()) return view.shape().layer_rows;
  return uint64_t{view.shape().segments} * view.shape().per_segment;
}

void VisitHeldRows(const View& view, Hotness* hotness, uint64_t first, uint64_t units,
                   absl::FunctionRef<void(RowId id, uint32_t count)> visit) {
  const uint64_t end = std::min(UnitsIn(view), first + units);
  for (uint64_t unit = first; unit < end; ++unit) {
    if (!view.resident()) {
      VisitSet(view, *hotness, unit, visit);
    } else if (view.IsThere(static_cast<uint32_t>(unit))) {
      visit(RowId{static_cast<uint32_t>(unit)}, 1);
    }
  }
}

void RecallRow(const View& view, Hotness& hotness, uint32_t row_id, uint32_t count) {
  auto& line = *reinterpret_cast<HotLine*>(view.HotLineOf(row_id));
  hotness.Recall(line, View::line(view.SetOf(row_id)), row_id, count);
}

}  // namespace engram::dram
