// A device in which an arena can lie and rows can be gathered: one GPU, or this machine's own
// memory. It plays both roles, the daemon's (arena_backend.h) and a worker's (gather_backend.h).
//
// HostBackend does all of that with plain memory and runs gathers on the calling thread: for tests,
// and for trying the tier out where there is no GPU.
#ifndef ENGRAM_GPU_CACHE_BACKEND_H_
#define ENGRAM_GPU_CACHE_BACKEND_H_

#include <memory>
#include <string>

#include "gpu_cache/arena_backend.h"
#include "gpu_cache/gather.h"
#include "gpu_cache/gather_backend.h"
#include "gpu_cache/status.h"

namespace engram::gpu_cache {

class Backend : public ArenaBackend, public GatherBackend {
 public:
  std::string name() const override = 0;
};

// `gather` is what a launch calls: tests have the kernels' code run on a processor.
std::unique_ptr<Backend> HostBackend(void (*gather)(const GatherArgs&) = &GatherOnHost);
// Device `ordinal` of those that CUDA shows this process. kUnsupported, with the reason, where
// there is none, or this build has no CUDA.
Status OpenCuda(int ordinal, std::unique_ptr<Backend>& out);

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_BACKEND_H_
