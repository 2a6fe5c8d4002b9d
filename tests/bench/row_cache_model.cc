#include "tests/bench/row_cache_model.h"
#include "storage/dram/fit_shape.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/layout.h"
#include "storage/table/row_batch.h"

namespace engram::bench {
namespace {

// The word at this offset of a row's bytes: all of them differ, in one row and between rows.
uint64_t WordAt(uint32_t row_id, uint64_t offset) {
  uint64_t x = (uint64_t{row_id} << 20 | offset) * 0x9E3779B97F4A7C15ull;
  x ^= x >> 29;
  return x * 0xBF58476D1CE4E5B9ull;
}

void FillRow(uint32_t row_id, std::byte* row, uint32_t row_bytes) {
  for (uint32_t at = 0; at < row_bytes; at += 8) {
    const uint64_t word = WordAt(row_id, at);
    std::memcpy(row + at, &word, std::min(row_bytes - at, 8u));
  }
}

bool RowIs(uint32_t row_id, const std::byte* row, uint32_t row_bytes) {
  uint64_t differ = 0;
  uint32_t at = 0;
  for (; at + 8 <= row_bytes; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row + at, 8);
    differ |= word ^ WordAt(row_id, at);
  }
  const uint64_t last = WordAt(row_id, at);
  return differ == 0 && std::memcmp(row + at, &last, row_bytes - at) == 0;
}

}  // namespace

uint64_t BudgetForRows(uint64_t rows, uint32_t row_bytes, uint64_t ids) {
  const dram::LayerShape unit{.row_bytes = row_bytes};
  const auto slots = [&](uint64_t bytes) { return dram::FitShape(bytes, row_bytes, ids).Slots(); };
  uint64_t budget = rows / dram::kWays * (unit.SetBytes() + dram::kLineBytes);
  while (slots(budget) == 0) budget += dram::kPageBytes;
  while (slots(budget + dram::kPageBytes) <= rows) budget += dram::kPageBytes;
  return budget;
}

absl::StatusOr<std::unique_ptr<RowCacheModel>> RowCacheModel::Create(uint64_t budget_bytes,
                                                                     uint32_t row_bytes,
                                                                     uint64_t ids,
                                                                     dram::Admission admission) {
  std::unique_ptr<SegmentStore> segments = SegmentStore::Anonymous();
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<RowCache> cache,
                          RowCache::Create({.budget_bytes = budget_bytes,
                                            .row_bytes = row_bytes,
                                            .layer_rows = ids,
                                            .admission = admission,
                                            .segments = segments.get()}));
  return std::unique_ptr<RowCacheModel>(
      new RowCacheModel(std::move(segments), std::move(cache), row_bytes));
}

absl::StatusOr<uint64_t> RowCacheModel::Access(absl::Span<const uint32_t> row_ids) {
  ids_.clear();
  for (const uint32_t id : row_ids) ids_.push_back(RowId{id});
  rows_.resize(ids_.size() * row_bytes_);
  RowBatch batch(ids_, row_bytes_, absl::MakeSpan(rows_));
  cache_->Read(batch);
  const std::vector<uint32_t>& missing = batch.missing();
  size_t next = 0;
  for (uint32_t i = 0; i < row_ids.size(); ++i) {
    if (next < missing.size() && missing[next] == i) {
      ++next;
      FillRow(row_ids[i], batch.row(i), row_bytes_);
      cache_->Offer(absl::MakeConstSpan(ids_).subspan(i, 1),
                    absl::MakeConstSpan(batch.row(i), row_bytes_));
    } else if (!RowIs(row_ids[i], batch.row(i), row_bytes_)) {
      return absl::DataLossError(absl::StrCat("row ", row_ids[i], " came back as another"));
    }
  }
  return row_ids.size() - missing.size();
}

}  // namespace engram::bench
