// What every backend asks of its callers.
#ifndef ENGRAM_GPU_CACHE_GATHERER_CHECKS_H_
#define ENGRAM_GPU_CACHE_GATHERER_CHECKS_H_

#include <cstddef>
#include <cstdint>

#include "gpu_cache/gather_backend.h"
#include "gpu_cache/status.h"

namespace engram::gpu_cache {

// kInvalid, naming the value.
Status CheckOptions(const GathererOptions& options);
Status CheckEnqueue(const GathererOptions& options, const uint32_t* ids, uint32_t count,
                    const std::byte* out);

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_GATHERER_CHECKS_H_
