// With the CUDA toolkit. The runtime is linked statically and finds the driver's library by itself
// when it is first called, so the same binary runs where there is no driver.
#include <cuda_runtime_api.h>

#include "gpu_cache/device.h"

namespace engram::gpu_cache {
namespace {

std::string Text(cudaError_t error) {
  return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
}

}  // namespace

DeviceReport ProbeDevice() {
  DeviceReport report;
  // The runtime reports "insufficient driver" where there is none at all: tell the two apart.
  if (cudaDriverGetVersion(&report.driver_version) != cudaSuccess || report.driver_version == 0) {
    report.reason = "no CUDA device: there is no NVIDIA driver on this machine";
    return report;
  }
  cudaRuntimeGetVersion(&report.runtime_version);
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    report.reason = "no CUDA device: " + (error == cudaSuccess ? "none found" : Text(error));
    return report;
  }
  cudaDeviceProp properties{};
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error == cudaSuccess) error = cudaSetDevice(0);
  if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (error != cudaSuccess) {
    report.reason = "CUDA device 0 cannot be used: " + Text(error);
    return report;
  }
  report.usable = true;
  report.name = properties.name;
  report.compute_capability = properties.major * 10 + properties.minor;
  report.total_bytes = total_bytes;
  report.free_bytes = free_bytes;
  return report;
}

}  // namespace engram::gpu_cache
