// Without a CUDA compiler.
#include "gpu_cache/backend.h"

namespace engram::gpu_cache {
namespace {

Status NoCuda() {
  return {Code::kUnsupported,
          "this build has no CUDA support: it was made without a CUDA compiler"};
}

}  // namespace

Status OpenCuda(int /*ordinal*/, std::unique_ptr<Backend>& /*out*/) { return NoCuda(); }

Status OpenCudaById(const std::array<uint8_t, kDeviceIdBytes>& /*device_id*/,
                    std::unique_ptr<Backend>& /*out*/) {
  return NoCuda();
}

}  // namespace engram::gpu_cache
