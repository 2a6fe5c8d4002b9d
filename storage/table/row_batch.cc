#include "storage/table/row_batch.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

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
    if (ids_[position] == RowId::kDeadPosition) {
      std::memset(row(position), 0, row_bytes_);
    } else {
      missing_[kept++] = position;
    }
  }
  missing_.resize(kept);
}

RowBatch::RowBatch(const RowBatch& whole, std::vector<uint32_t> positions)
    : ids_(whole.ids_),
      row_bytes_(whole.row_bytes_),
      out_(whole.out_),
      tier_of_(whole.tier_of_),
      missing_(std::move(positions)) {}

void RowBatch::Absorb(const RowBatch& part) {
  if (!part.failures_.empty()) {
    failures_.insert(failures_.end(), part.failures_.begin(), part.failures_.end());
    std::sort(failures_.begin(), failures_.end(),
              [](const RowFailure& a, const RowFailure& b) { return a.position < b.position; });
  }
  for (size_t i = 0; i < kTierCount; ++i) served_[i] += part.served_[i];
}

void RowBatch::Fail(uint32_t position, const absl::Status& status) {
  std::memset(row(position), 0, row_bytes_);
  failures_.push_back({position, status});
}

void RowBatch::SetRepeatsAside() {
  if (missing_.size() < 2) return;
  // A hash table of positions + 1, at most half full; 0 is an empty slot.
  const int bits = std::bit_width(missing_.size() - 1) + 1;
  std::vector<uint32_t> slots(size_t{1} << bits);
  const size_t mask = slots.size() - 1;
  size_t kept = 0;
  for (const uint32_t position : missing_) {
    const RowId id = ids_[position];
    size_t slot = (Raw(id) * 0x9E3779B97F4A7C15ull) >> (64 - bits);
    while (slots[slot] != 0 && ids_[slots[slot] - 1] != id) slot = (slot + 1) & mask;
    if (slots[slot] == 0) {
      slots[slot] = position + 1;
      missing_[kept++] = position;
    } else {
      repeats_.push_back({position, slots[slot] - 1});
    }
  }
  missing_.resize(kept);
  if (repeats_.empty() || wants_tiers()) return;
  own_tiers_.assign(ids_.size(), kNoTier);
  tier_of_ = absl::MakeSpan(own_tiers_);
}

void RowBatch::FillRepeats() {
  std::unordered_map<uint32_t, absl::Status> failed;
  for (const RowFailure& failure : failures_) {
    if (!repeats_.empty()) failed.emplace(failure.position, failure.status);
  }
  for (const Repeat& repeat : repeats_) {
    if (const auto failure = failed.find(repeat.first); failure != failed.end()) {
      Fail(repeat.position, failure->second);
      continue;
    }
    if (tier_of_[repeat.first] == kNoTier) {
      // Nobody has filled it: an old buffer's bytes must not go out as a row.
      Fail(repeat.position, absl::InternalError("its first occurrence in the batch was not read"));
      continue;
    }
    std::memcpy(row(repeat.position), row(repeat.first), row_bytes_);
    tier_of_[repeat.position] = tier_of_[repeat.first];
    ++served_[tier_of_[repeat.first]];
  }
  repeats_.clear();
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
