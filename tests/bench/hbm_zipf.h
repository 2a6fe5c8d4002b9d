// The part of the `zipf` suite that is about HBM: what the rows chosen for it serve.
#ifndef ENGRAM_TESTS_BENCH_HBM_ZIPF_H_
#define ENGRAM_TESTS_BENCH_HBM_ZIPF_H_

#include "absl/status/status.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/report.h"

namespace engram::bench {

// Lines zipf/hbm/ALPHA/SHARE. As the suites.
absl::Status RunHbmZipf(const BenchOptions& options, Reporter& reporter);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_HBM_ZIPF_H_
