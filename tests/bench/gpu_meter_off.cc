// Without a CUDA compiler.
#include "tests/bench/gpu_meter.h"

namespace engram::bench {

absl::StatusOr<std::unique_ptr<GpuMeter>> GpuMeter::Open() {
  return absl::FailedPreconditionError("this build has no CUDA support");
}

}  // namespace engram::bench
