#include "server/tables/hbm_access_log.h"

#include <algorithm>
#include <utility>

#include "storage/dram/access_ring.h"

namespace engram {

HbmAccessLog::HbmAccessLog(std::string note) { usage_.note = std::move(note); }

TierUsage HbmAccessLog::Usage() const {
  MutexLock lock(mutex_);
  return usage_;
}

void HbmAccessLog::SetUsage(TierUsage usage) {
  MutexLock lock(mutex_);
  usage_ = std::move(usage);
}

void HbmAccessLog::Note(absl::Span<const RowId> ids) {
  if (!sampled()) return;
  MutexLock lock(mutex_);
  const size_t room = kMostSamples - std::min(kMostSamples, samples_.size());
  samples_.insert(samples_.end(), ids.begin(), ids.begin() + std::min(room, ids.size()));
}

void HbmAccessLog::NoteSome(absl::Span<const RowId> ids) {
  if (!sampled()) return;
  const uint32_t phase = phase_.fetch_add(1, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  for (size_t i = phase % dram::kSampleEvery; i < ids.size(); i += dram::kSampleEvery) {
    if (samples_.size() >= kMostSamples) return;
    if (ids[i] != RowId::kDeadPosition) samples_.push_back(ids[i]);
  }
}

std::vector<RowId> HbmAccessLog::TakeSamples() {
  std::vector<RowId> taken;
  MutexLock lock(mutex_);
  taken.swap(samples_);
  return taken;
}

}  // namespace engram
