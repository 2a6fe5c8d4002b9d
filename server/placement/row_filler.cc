#include "server/placement/row_filler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <utility>

#include "server/placement/profile_import.h"
#include "storage/base/status_macros.h"
#include "storage/table/row_batch.h"

namespace engram {
namespace {

// Rows read in one go, and the memory that they may take.
constexpr size_t kBatchRows = 2048;
constexpr size_t kBatchBytes = size_t{4} << 20;
// Counts are set for so many rows at a time; in between the cache is not held.
constexpr size_t kRecallRows = 4096;
constexpr int kAttempts = 16;
// The count of a profile's last row that fits.
constexpr double kLastCount = 4;
// Up to here each count is a class of its own; above, a class is a doubling.
constexpr uint32_t kSingleCounts = 8;

absl::Status Gone() { return absl::CancelledError("the layer's DRAM cache is another one by now"); }
absl::Status Stopped() { return absl::CancelledError("the daemon is shutting down"); }

}  // namespace

CountScale LiveScale() {
  CountScale scale{};
  for (uint32_t number = 1; number < scale.size(); ++number) {
    scale[number] = static_cast<uint8_t>(number);
  }
  return scale;
}

CountScale ProfileScale(const NumberHistogram& rows_of_level, uint64_t slots) {
  // The level of the last row that fits, or of the last one there is.
  uint64_t above = 0;
  uint32_t last = 1;
  for (uint32_t level = 255; level >= 1 && above < slots; --level) {
    if (rows_of_level[level] > 0) last = level;
    above += rows_of_level[level];
  }
  CountScale scale{};
  for (uint32_t level = 1; level < scale.size(); ++level) {
    const double count = std::round(
        kLastCount * LevelRatio(static_cast<uint8_t>(level), static_cast<uint8_t>(last)));
    scale[level] = static_cast<uint8_t>(std::clamp<double>(count, 1, dram::kMaxCount));
  }
  return scale;
}

absl::StatusOr<NumberHistogram> RowFiller::Survey(const List& list) {
  NumberHistogram rows{};
  ENGRAM_RETURN_IF_ERROR(list([&](const HotRun& run) {
    rows[run.count] += run.ids.size();
    return absl::OkStatus();
  }));
  return rows;
}

std::vector<RowFiller::Class> RowFiller::ClassesOf(const NumberHistogram& rows,
                                                   const CountScale& scale, bool resident) {
  // Where all rows have a place there is nothing to choose.
  const auto class_of = [&](uint32_t number) -> uint32_t {
    if (resident) return 0;
    const uint32_t count = scale[number];
    return count < kSingleCounts ? count : kSingleCounts + std::bit_width(count / kSingleCounts);
  };
  std::vector<Class> classes;
  for (uint32_t number = 255; number >= 1; --number) {
    if (scale[number] == 0 || rows[number] == 0) continue;
    if (!classes.empty() && class_of(classes.back().low) == class_of(number)) {
      classes.back().low = number;
    } else {
      classes.push_back({number, number});
    }
  }
  return classes;
}

absl::StatusOr<RowFiller::Result> RowFiller::Fill(const List& list,
                                                  const NumberHistogram& rows_of_number,
                                                  const CountScale& scale, uint32_t most) {
  result_ = {};
  bool resident = false;
  uint64_t layer_rows = 0;
  {
    const CacheHandle::Held held = cache_.Get();
    if (held.cache == nullptr) return Gone();
    resident = held.cache->shape().mode == dram::Mode::kResident;
    layer_rows = held.stack->spec().rows;
  }
  for (const Class& numbers : ClassesOf(rows_of_number, scale, resident)) {
    const uint32_t count = std::min<uint32_t>(scale[numbers.low], most);
    ENGRAM_RETURN_IF_ERROR(FillClass(list, numbers, count, layer_rows));
  }
  if (!resident) ENGRAM_RETURN_IF_ERROR(RecallAll(list, scale, most));
  return result_;
}

absl::Status RowFiller::FillClass(const List& list, Class numbers, uint32_t count,
                                  uint64_t layer_rows) {
  std::vector<uint64_t> wanted((layer_rows + 63) / 64);
  ENGRAM_RETURN_IF_ERROR(list([&](const HotRun& run) {
    if (run.count < numbers.low || run.count > numbers.high) return absl::OkStatus();
    for (const RowId id : run.ids) wanted[Raw(id) / 64] |= uint64_t{1} << (Raw(id) % 64);
    return absl::OkStatus();
  }));
  std::vector<RowId> ids;
  for (size_t i = 0; i < wanted.size(); ++i) {
    for (uint64_t bits = wanted[i]; bits != 0; bits &= bits - 1) {
      ids.push_back(RowId{static_cast<uint32_t>(i * 64 + std::countr_zero(bits))});
      if (ids.size() == kBatchRows) ENGRAM_RETURN_IF_ERROR(FillBatch(ids, count));
    }
  }
  return ids.empty() ? absl::OkStatus() : FillBatch(ids, count);
}

// Takes the ids; leaves none.
absl::Status RowFiller::FillBatch(std::vector<RowId>& ids, uint32_t count) {
  if (*stop_) return Stopped();
  CacheHandle::Held held = cache_.Get();
  if (held.cache == nullptr) return Gone();
  std::erase_if(ids, [&](RowId id) { return !held.cache->HasRoomFor(id, count); });
  held.cache = nullptr;
  const uint32_t row_bytes = held.stack->spec().row_bytes;
  const size_t at_once = std::clamp<size_t>(kBatchBytes / row_bytes, 1, kBatchRows);
  for (size_t first = 0; first < ids.size(); first += at_once) {
    if (*stop_) return Stopped();
    const auto part = absl::MakeConstSpan(ids).subspan(first, at_once);
    std::vector<std::byte> rows(part.size() * row_bytes);
    RowBatch batch(part, row_bytes, absl::MakeSpan(rows));
    held.stack->ReadStorage(batch);
    // What could not be read is zeros, or whatever was there before: never to be served.
    std::vector<bool> unread(part.size());
    for (const RowFailure& failure : batch.failures()) unread[failure.position] = true;
    for (const uint32_t position : batch.missing()) unread[position] = true;
    const std::shared_ptr<RowCache> cache = cache_.Get().cache;
    if (cache == nullptr) return Gone();
    uint64_t placed = 0;
    for (uint32_t i = 0; i < part.size(); ++i) {
      const auto row = absl::MakeConstSpan(batch.row(i), row_bytes);
      if (unread[i]) ++result_.failed;
      // Another thread may be writing to the set: try again.
      for (int attempt = 0; attempt < kAttempts && !unread[i]; ++attempt) {
        const uint64_t stored = cache->Place(part.subspan(i, 1), count, row);
        placed += stored;
        if (stored > 0 || !cache->HasRoomFor(part[i], count)) break;
      }
    }
    held.stack->CountPlaced(placed);
    result_.placed += placed;
  }
  ids.clear();
  return absl::OkStatus();
}

absl::Status RowFiller::RecallAll(const List& list, const CountScale& scale, uint32_t most) {
  std::vector<std::pair<RowId, uint32_t>> piece;
  bool gone = false;
  const auto recall = [&] {
    const std::shared_ptr<RowCache> cache = cache_.Get().cache;
    gone = gone || cache == nullptr;
    for (const auto& [id, count] : piece) {
      if (!gone) cache->Recall(id, count);
    }
    piece.clear();
  };
  ENGRAM_RETURN_IF_ERROR(list([&](const HotRun& run) -> absl::Status {
    if (scale[run.count] == 0) return absl::OkStatus();
    const uint32_t count = std::min<uint32_t>(scale[run.count], most);
    for (const RowId id : run.ids) {
      piece.emplace_back(id, count);
      if (piece.size() == kRecallRows) recall();
    }
    return gone ? Gone() : absl::OkStatus();
  }));
  recall();
  return gone ? Gone() : absl::OkStatus();
}

}  // namespace engram
