#include "server/hbm_tier.h"

#include <utility>

#include "gpu_cache/device.h"

namespace engram {

std::string HbmNote(uint64_t hbm_budget_bytes) {
  if (hbm_budget_bytes == 0) return "off: its budget is 0";
  const gpu_cache::DeviceReport device = gpu_cache::ProbeDevice();
  if (!device.usable) return "off: " + device.reason;
  return "off: this version places no rows in GPU memory (found " + device.name + ")";
}

HbmTier::HbmTier(std::string note) : note_(std::move(note)) {}

void HbmTier::Read(RowBatch& /*batch*/) {}

TierUsage HbmTier::Usage() const {
  TierUsage usage;
  usage.note = note_;
  return usage;
}

}  // namespace engram
