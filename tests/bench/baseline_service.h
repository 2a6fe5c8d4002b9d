// The services that the suite `grpc` is measured against, server and client: generated code with a
// synchronous or a callback server, as a gRPC user writes them; the synchronous one once more, with
// the allocator settings that engramd has; and raw byte buffers.
//
// The generated handlers resize one `bytes` field to the size of the rows asked for. The raw one
// answers with bytes that it made once for each size; it is a ceiling, not a rival: its client does
// not even look at them.
//
// Why the allocator matters: a server of large answers that leaves glibc alone is two to four times
// slower whenever every answer's memory is given back to the kernel, and whether it is is chance.
#ifndef ENGRAM_TESTS_BENCH_BASELINE_SERVICE_H_
#define ENGRAM_TESTS_BENCH_BASELINE_SERVICE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {

enum class BaselineKind { kSync, kCallback, kTuned, kRaw };
inline constexpr BaselineKind kAllBaselines[] = {BaselineKind::kSync, BaselineKind::kCallback,
                                                 BaselineKind::kTuned, BaselineKind::kRaw};
const char* BaselineName(BaselineKind kind);  // "sync", "callback", "tuned", "raw"
// InvalidArgument naming `name` if it is none of these.
absl::StatusOr<BaselineKind> ParseBaselineKind(const std::string& name);

// Serves on `address` until SIGTERM; prints "baseline: ready". The whole of a process; returns its
// exit code.
int ServeBaseline(BaselineKind kind, const std::string& address);

// A process with such a server, and a client of it in this one, one call in flight at a time.
class BaselineProcess {
 public:
  static absl::StatusOr<std::unique_ptr<BaselineProcess>> Start(const ScratchDirectory& scratch,
                                                                BaselineKind kind);
  virtual ~BaselineProcess() = default;

  // Asks for ids.size() rows. Internal when the answer is not 264 bytes a row.
  virtual absl::Status Call(absl::Span<const uint32_t> ids) = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_BASELINE_SERVICE_H_
