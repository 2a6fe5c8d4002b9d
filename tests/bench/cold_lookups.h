// Rounds of what the suites about the drive compare: look-ups of cold rows through the daemon, and
// reads of the drive by this process.
//
// One thread at a time owns each object.
#ifndef ENGRAM_TESTS_BENCH_COLD_LOOKUPS_H_
#define ENGRAM_TESTS_BENCH_COLD_LOOKUPS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/report.h"
#include "tests/bench/table_shape.h"
#include "tests/bench/uring_reads.h"

namespace engram::bench {

// What the daemon is told, to keep `depth` page reads in flight at the drive.
std::vector<std::string> DepthFlags(int depth);
// From how many threads the daemon keeps them in flight, and so the baseline.
inline constexpr int kDriveThreads = 1;

// How the daemon reads, in its own words. FailedPrecondition if the page cache is in the way.
absl::StatusOr<std::string> DescribeIo(const Daemon& daemon);

// One round of the same.
struct Sample {
  double rate = 0;          // rows or reads a second
  double cpu_us = 0;        // a row or read, of the process that reads the drive
  double device_reads = 0;  // a row or read; 0 where the device cannot be asked
  double device_depth = 0;  // mean number of reads in flight at the device
};

// What several rounds of the same came to.
struct Samples {
  std::vector<Sample> all;
  double MedianOf(double Sample::*member) const;
};

// Details of a line that compares these two.
void AddSamples(const Samples& lookups, const Samples& reads, Result& result);

// What the device does between construction and Finish.
class DeviceMeter {
 public:
  explicit DeviceMeter(const std::string& path) : path_(path), before_(ReadDeviceCounters(path)) {}
  // Fills in the fields about the device; `count` rows or reads were done in `seconds`.
  void Finish(double count, double seconds, Sample& sample) const;

 private:
  const std::string path_;
  const absl::StatusOr<DeviceReads> before_;
};

// Threads of a client that look up uniform ids, each with one call in flight.
class ColdCallers {
 public:
  // `daemon` must outlive it; it serves kTableName with this shape.
  static absl::StatusOr<std::unique_ptr<ColdCallers>> Connect(Daemon& daemon,
                                                              const TableShape& shape, int calls,
                                                              size_t rows_per_call);

  // Looks up for about `seconds`. Every row is compared: a cold row takes the drive far longer than
  // us. `device` is a path on the device that holds the table.
  absl::StatusOr<Sample> Round(double seconds, uint64_t seed, const std::string& device) const;

 private:
  ColdCallers(Daemon& daemon, const TableShape& shape, size_t rows_per_call)
      : daemon_(daemon), shape_(shape), rows_per_call_(rows_per_call) {}
  // Relaxed: read after the threads are joined.
  absl::Status CallFor(RowCaller& caller, double seconds, uint64_t seed,
                       std::atomic<uint64_t>& rows) const;

  Daemon& daemon_;
  const TableShape shape_;
  const size_t rows_per_call_;
  std::vector<std::unique_ptr<RowCaller>> callers_;
};

// A layer of kLayers by its share of the rows: with an id of it, one draws from all rows alike.
size_t AnyLayer(const TableShape& shape, std::mt19937_64& random);

// One round of random reads.
absl::StatusOr<Sample> ReadRound(const RandomReader& reader, int depth, double seconds,
                                 uint64_t seed, const std::string& device);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_COLD_LOOKUPS_H_
