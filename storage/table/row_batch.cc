#include "storage/table/row_batch.h"

#include <algorithm>
#include <cstring>

namespace engram {

const char* TierName(TierKind kind) {
  constexpr std::array<const char*, kTierCount> kNames = {"hbm", "dram", "nvme"};
  return kNames[static_cast<size_t>(kind)];
}

RowBatch::RowBatch(absl::Span<const RowId> ids, uint32_t row_bytes, absl::Span<std::byte> out,
                   absl::Span<uint8_t> tier_of)
    : ids_(ids), row_bytes_(row_bytes), out_(out), tier_of_(tier_of) {
  std::fill(tier_of_.begin(), tier_of_.end(), kNoTier);
  missing_.resize(ids_.size());
  size_t kept = 0;
  for (uint32_t position = 0; position < ids_.size(); ++position) {
    if (ids_[position] == kZeroRow) {
      std::memset(row(position), 0, row_bytes_);
    } else {
      missing_[kept++] = position;
    }
  }
  missing_.resize(kept);
}

void RowBatch::Fail(uint32_t position, const absl::Status& status) {
  std::memset(row(position), 0, row_bytes_);
  failures_.push_back({position, status});
}

void RowBatch::CountServed(TierKind kind, absl::Span<const uint32_t> missing_before,
                           size_t failures_before) {
  const size_t failed = failures_.size() - failures_before;
  served_[static_cast<size_t>(kind)] += missing_before.size() - missing_.size() - failed;
  if (!wants_tiers()) return;
  for (const uint32_t position : missing_before) {
    tier_of_[position] = static_cast<uint8_t>(kind);
  }
  for (const uint32_t position : missing_) tier_of_[position] = kNoTier;
  for (size_t i = failures_before; i < failures_.size(); ++i) {
    tier_of_[failures_[i].position] = kNoTier;
  }
}

}  // namespace engram
