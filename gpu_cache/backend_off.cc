// Without a CUDA compiler.
#include "gpu_cache/backend.h"

namespace engram::gpu_cache {

Status OpenCuda(int /*ordinal*/, std::unique_ptr<Backend>& /*out*/) {
  return {Code::kUnsupported,
          "this build has no CUDA support: it was made without a CUDA compiler"};
}

}  // namespace engram::gpu_cache
