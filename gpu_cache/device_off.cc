// Without a CUDA toolkit.
#include "gpu_cache/device.h"

namespace engram::gpu_cache {

DeviceReport ProbeDevice() {
  DeviceReport report;
  report.reason = "this build has no CUDA support: it was made without the CUDA toolkit";
  return report;
}

}  // namespace engram::gpu_cache
