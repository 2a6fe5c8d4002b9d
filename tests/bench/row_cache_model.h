// The daemon's own row cache under a trace: real rows in real segments, read by batches and offered
// as the tier stack does it, hits sampled as in the daemon. Each row that is served is compared.
//
// One thread at a time.
#ifndef ENGRAM_TESTS_BENCH_ROW_CACHE_MODEL_H_
#define ENGRAM_TESTS_BENCH_ROW_CACHE_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/dram/row_cache.h"
#include "storage/dram/segment.h"
#include "tests/bench/cache_models.h"

namespace engram::bench {

// The largest budget of a cache with room for `rows` rows at most, of a table with ids below `ids`;
// enough for one set at least. dram::FitShape says what becomes of it.
uint64_t BudgetForRows(uint64_t rows, uint32_t row_bytes, uint64_t ids);

class RowCacheModel final : public CacheModel {
 public:
  // In anonymous memory. As RowCache::Create.
  static absl::StatusOr<std::unique_ptr<RowCacheModel>> Create(
      uint64_t budget_bytes, uint32_t row_bytes, uint64_t ids,
      dram::Admission admission = dram::Admission::kAdaptive);

  absl::StatusOr<uint64_t> Access(absl::Span<const uint32_t> row_ids) override;
  uint64_t TimesForgotten() const override { return cache_->times_forgotten(); }
  bool ByRecency() const override { return cache_->policy() == dram::Policy::kRecency; }

 private:
  RowCacheModel(std::unique_ptr<SegmentStore> segments, std::unique_ptr<RowCache> cache,
                uint32_t row_bytes)
      : segments_(std::move(segments)), cache_(std::move(cache)), row_bytes_(row_bytes) {}

  const std::unique_ptr<SegmentStore> segments_;
  const std::unique_ptr<RowCache> cache_;
  const uint32_t row_bytes_;
  std::vector<RowId> ids_;
  std::vector<std::byte> rows_;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_ROW_CACHE_MODEL_H_
