// How this folder says that something went wrong: a kind and one sentence, for it stands without
// Abseil. CUDA's codes become one of these once, at the seam (cuda_support.h).
#ifndef ENGRAM_GPU_CACHE_STATUS_H_
#define ENGRAM_GPU_CACHE_STATUS_H_

#include <string>
#include <utility>

#define ENGRAM_GPU_RETURN_IF_ERROR(expression)                      \
  do {                                                              \
    if (Status failed_status = (expression); !failed_status.ok()) { \
      return failed_status;                                         \
    }                                                               \
  } while (false)

namespace engram::gpu_cache {

enum class Code {
  kOk,
  kInvalid,      // the caller's mistake
  kUnsupported,  // this machine, driver or build cannot do it
  kExhausted,    // not enough memory
  kUnavailable,  // the device, or the memory of another process, is gone
};

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_STATUS_H_
