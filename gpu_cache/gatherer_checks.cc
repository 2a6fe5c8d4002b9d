#include "gpu_cache/gatherer_checks.h"

#include <string>

#include "gpu_cache/dequantise.h"

namespace engram::gpu_cache {

const char* MemoryKindName(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kHost:
      return "host memory";
    case MemoryKind::kCudaVmm:
      return "CUDA VMM";
    case MemoryKind::kCudaIpc:
      return "CUDA IPC";
  }
  return "unknown memory";
}

Status CheckOptions(const GathererOptions& options) {
  if (options.row_bytes == 0 || options.max_rows == 0 || options.max_rows > kMaxGatherRows) {
    return {Code::kInvalid, "a gatherer for " + std::to_string(options.max_rows) + " rows of " +
                                std::to_string(options.row_bytes) + " bytes: give 1 to " +
                                std::to_string(kMaxGatherRows) + " rows of at least 1 byte"};
  }
  if (options.output == Output::kBf16 && QuantisedValues(options.row_bytes) == 0) {
    return {Code::kInvalid,
            "rows of " + std::to_string(options.row_bytes) +
                " bytes are not values of one byte with a scale for each 32 of them, so they "
                "cannot be given as bf16: ask for raw rows"};
  }
  return {};
}

Status CheckEnqueue(const GathererOptions& options, const uint32_t* ids, uint32_t count,
                    const std::byte* out) {
  if (count > options.max_rows) {
    return {Code::kInvalid, std::to_string(count) + " rows: the gatherer was made for " +
                                std::to_string(options.max_rows)};
  }
  if (reinterpret_cast<uintptr_t>(ids) % alignof(uint32_t) != 0 ||
      (options.output == Output::kBf16 && reinterpret_cast<uintptr_t>(out) % 16 != 0)) {
    return {Code::kInvalid, "the ids have to be aligned to 4 bytes, bf16 rows to 16"};
  }
  return {};
}

}  // namespace engram::gpu_cache
