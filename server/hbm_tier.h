// The HBM tier of one layer, with the tiers' face.
//
// In this version the daemon places no rows in GPU memory: the tier passes every batch on, and its
// note says why it is off (no device, no CUDA compiler, a budget of 0, or that placement is not
// part of this version), so that `stats` never leaves the reader guessing.
#ifndef ENGRAM_SERVER_HBM_TIER_H_
#define ENGRAM_SERVER_HBM_TIER_H_

#include <cstdint>
#include <string>

#include "storage/table/tier.h"

namespace engram {

// Why the tier is off on this machine with this budget. Asks the driver once; call it at start.
std::string HbmNote(uint64_t hbm_budget_bytes);

class HbmTier final : public Tier {
 public:
  explicit HbmTier(std::string note);

  TierKind kind() const override { return TierKind::kHbm; }
  void Read(RowBatch& batch) override;
  TierUsage Usage() const override;

 private:
  const std::string note_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_HBM_TIER_H_
