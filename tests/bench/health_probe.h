// HealthProbe: grpc.health.v1 Check, as a load balancer or an orchestrator asks it, on a connection
// of its own. One thread.
#ifndef ENGRAM_TESTS_BENCH_HEALTH_PROBE_H_
#define ENGRAM_TESTS_BENCH_HEALTH_PROBE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace engram::bench {

class HealthProbe {
 public:
  // Unavailable when nobody answers.
  static absl::StatusOr<std::unique_ptr<HealthProbe>> Connect(const std::string& target);
  virtual ~HealthProbe() = default;

  // Microseconds until the answer. Unavailable when the call fails or takes over 10 s; Internal
  // when the answer is not SERVING.
  virtual absl::StatusOr<double> Check() = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_HEALTH_PROBE_H_
