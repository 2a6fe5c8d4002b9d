// The HBM tier of one layer, with the tiers' face.
//
// Rows in GPU memory are for those who gather on the GPU (client/gpu_reader.h): they find them by
// themselves, and tell the daemon how many and, as a sample, which. A look-up of the daemon's own
// answers into host memory, to which DRAM is nearer; and what is in HBM was and mostly still is in
// DRAM. So Read passes every batch on. What this class is for is what the operator sees, and the
// accesses from which HbmKeeper learns what belongs into HBM.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_HBM_TIER_H_
#define ENGRAM_SERVER_HBM_TIER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "storage/base/mutex.h"
#include "storage/table/tier.h"

namespace engram {

class HbmTier final : public Tier {
 public:
  explicit HbmTier(std::string note);

  TierKind kind() const override { return TierKind::kHbm; }
  void Read(RowBatch& batch) override;
  TierUsage Usage() const override;
  void SetUsage(TierUsage usage);

  // Whether anybody wants to know what is asked for.
  bool sampled() const { return sampled_.load(std::memory_order_relaxed); }
  void SetSampled(bool sampled) { sampled_.store(sampled, std::memory_order_relaxed); }
  // Notes these accesses. What comes while kMostSamples wait is dropped.
  void Note(absl::Span<const RowId> ids);
  // Notes one id in dram::kSampleEvery, the next time others.
  void NoteSome(absl::Span<const RowId> ids);
  // What was noted since the last time.
  std::vector<RowId> TakeSamples();

  static constexpr size_t kMostSamples = 1u << 17;

 private:
  mutable Mutex mutex_;  // held to copy a few words
  TierUsage usage_ ABSL_GUARDED_BY(mutex_);
  std::vector<RowId> samples_ ABSL_GUARDED_BY(mutex_);
  // Relaxed, both: only what is sampled depends on them.
  std::atomic<bool> sampled_{false};
  std::atomic<uint32_t> phase_{0};
};

}  // namespace engram

#endif  // ENGRAM_SERVER_HBM_TIER_H_
