// The suites. Each makes what it measures in a scratch directory of its own, starts it, measures
// value and baseline in turns, so that drift meets both alike, and reports medians.
//
// Rows that came back are compared with what was loaded, outside the time that is measured; the
// first wrong one ends the suite with DataLoss.
#ifndef ENGRAM_TESTS_BENCH_SUITES_H_
#define ENGRAM_TESTS_BENCH_SUITES_H_

#include <array>

#include "absl/status/status.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/report.h"

namespace engram::bench {

// Rows a second over gRPC with all rows in DRAM, against generated code.
absl::Status RunGrpcSuite(const BenchOptions& options, Reporter& reporter);
// Rows a second from NVMe alone, against random 4 KiB reads.
absl::Status RunNvmeSuite(const BenchOptions& options, Reporter& reporter);
// Microseconds of a decode token's rows beside large calls, against bare reads beside bare ones.
absl::Status RunFairSuite(const BenchOptions& options, Reporter& reporter);
// Bytes a second of a bulk load, against copying the same files.
absl::Status RunLoadSuite(const BenchOptions& options, Reporter& reporter);
// Nanoseconds a cold row in tables of several sizes, against the table of 10^7 rows; disk and
// memory.
absl::Status RunScaleSuite(const BenchOptions& options, Reporter& reporter);
// A table of 100 billion parameters of 4 bits: loaded once, served, 10^6 rows compared.
absl::Status RunParamsSuite(const BenchOptions& options, Reporter& reporter);

// Row ids a second of the addressing, against one division a row.
absl::Status RunHashSuite(const BenchOptions& options, Reporter& reporter);
// Hit ratios of the DRAM tier's policy over traces by Zipf's law, against static placement.
absl::Status RunZipfSuite(const BenchOptions& options, Reporter& reporter);

// Hit ratios of the daemon's row cache over a trace from files, against static placement.
absl::Status RunTraceSuite(const BenchOptions& options, Reporter& reporter);

// Rows a second over shared memory, and microseconds for one token's rows, against the bare gather.
absl::Status RunShmSuite(const BenchOptions& options, Reporter& reporter);
absl::Status RunLatencySuite(const BenchOptions& options, Reporter& reporter);
// Seconds until the first row after a restart, against filling DRAM from NVMe.
absl::Status RunRestartSuite(const BenchOptions& options, Reporter& reporter);

// GB/s of the gather kernel from HBM and over PCIe, against the device's own copies.
absl::Status RunGpuSuite(const BenchOptions& options, Reporter& reporter);

// Row bytes of the table of `fair`; a little over 8 GiB.
inline constexpr uint64_t kFairTableBytes = (uint64_t{8} << 30) + (uint64_t{50} << 20);

struct Suite {
  const char* name;
  const char* help;
  absl::Status (*run)(const BenchOptions& options, Reporter& reporter);
};

inline constexpr std::array<Suite, 13> kSuites = {{
    {"grpc", "rows/s of Lookup over a Unix socket, all rows in DRAM", RunGrpcSuite},
    {"nvme", "rows/s and latency from NVMe alone, past the page cache", RunNvmeSuite},
    {"fair", "us for 48 rows beside 64 clients that ask for 8,192 cold ones", RunFairSuite},
    {"load", "bytes/s from safetensors to published", RunLoadSuite},
    {"scale", "ns a cold row at 10^7, 10^8 and the most rows that fit (--rows)", RunScaleSuite},
    {"params", "loads and serves 10^11 parameters of 4 bits, 54 GB (--parameters, --dram)",
     RunParamsSuite},
    {"shm", "rows/s over shared memory, all rows in DRAM", RunShmSuite},
    {"latency", "us for 48 rows in DRAM, over shm and grpc", RunLatencySuite},
    {"restart", "s until the first row after a restart with DRAM full", RunRestartSuite},
    {"hash", "row ids/s of the addressing, one thread", RunHashSuite},
    {"zipf", "hit ratio of the row cache by Zipf's law, drift, scans (--rows)", RunZipfSuite},
    {"trace", "hit ratio of the row cache over files (--trace, --test-trace, --rows)",
     RunTraceSuite},
    {"gpu", "GB/s of the gather kernel, from HBM and over PCIe; needs a GPU", RunGpuSuite},
}};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_SUITES_H_
