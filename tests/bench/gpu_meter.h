// How long work takes on a GPU: as replays of a CUDA graph between two events of the device, so
// that the host's time is not in it. And what the device's own copies take.
//
// Where this build has no CUDA, Open says so. One thread at a time.
#ifndef ENGRAM_TESTS_BENCH_GPU_METER_H_
#define ENGRAM_TESTS_BENCH_GPU_METER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_cache/backend.h"

namespace engram::bench {

class GpuMeter {
 public:
  // FailedPrecondition, with the reason, where there is no GPU.
  static absl::StatusOr<std::unique_ptr<GpuMeter>> Open();
  virtual ~GpuMeter() = default;

  virtual gpu_cache::Backend& backend() = 0;
  virtual std::string card() const = 0;    // "NVIDIA H200"
  virtual std::string driver() const = 0;  // "13.0", as CUDA counts

  // Seconds of one run of `work`, which only puts something on the stream that it is given:
  // captured once, replayed `replays` times after a few unmeasured ones.
  virtual absl::StatusOr<double> Replay(const std::function<gpu_cache::Status(void* stream)>& work,
                                        int replays) = 0;

  // Seconds of one copy of so many bytes, device to device, or from pinned host memory.
  virtual absl::StatusOr<double> DeviceCopy(uint64_t bytes, int replays) = 0;
  virtual absl::StatusOr<double> HostCopy(uint64_t bytes, int replays) = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_GPU_METER_H_
