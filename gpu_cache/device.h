// What GPU, if any, the HBM tier could use, and if none, why.
//
// Only the standard library: no CUDA type appears here, so that everything builds where there is no
// CUDA toolkit (device_off.cc) as well as where there is (device_cuda.cc).
#ifndef ENGRAM_GPU_CACHE_DEVICE_H_
#define ENGRAM_GPU_CACHE_DEVICE_H_

#include <cstdint>
#include <string>

namespace engram::gpu_cache {

struct DeviceReport {
  bool usable = false;
  // When not usable: one sentence for the operator.
  std::string reason;
  // When usable, of device 0.
  std::string name;            // "NVIDIA H200"
  int compute_capability = 0;  // 90 for sm_90
  int driver_version = 0;      // as CUDA counts: 13000 is 13.0
  int runtime_version = 0;
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
};

// Asks the driver. Quick where there is none; with one it makes the device's context, which takes
// some tenths of a second, so call it once at start. Never throws; thread-safe.
DeviceReport ProbeDevice();

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_DEVICE_H_
