// What the drive gives to a program that does nothing else: the baselines of the suites nvme and
// load. Direct I/O through io_uring, queues always full, nothing checked but byte counts.
//
// All block; an interrupt ends them with Cancelled.
#ifndef ENGRAM_TESTS_BENCH_URING_READS_H_
#define ENGRAM_TESTS_BENCH_URING_READS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/base/unique_fd.h"

namespace engram::bench {

inline constexpr uint32_t kReadBytes = 4096;

// FailedPrecondition when the file system refuses direct I/O; Unavailable for any other error.
absl::StatusOr<UniqueFd> OpenDirect(const std::string& path, int flags);

// Random aligned reads of kReadBytes, uniform over all of `files`. Each thread has a ring of its
// own and keeps depth / threads reads in flight.
class RandomReader {
 public:
  // Opens the files. FailedPrecondition when one cannot be read past the page cache, or is empty
  // throughout.
  static absl::StatusOr<std::unique_ptr<RandomReader>> Open(const std::vector<std::string>& files);

  uint64_t bytes() const { return pages_ * kReadBytes; }

  struct Outcome {
    uint64_t reads = 0;
    double seconds = 0;
    double cpu_seconds = 0;  // of the whole process, which does nothing else meanwhile
  };
  // Requires that `threads` divides `depth`. Reads for about `seconds`.
  absl::StatusOr<Outcome> Run(int depth, int threads, double seconds, uint64_t seed) const;

  // Microseconds from handing in `reads` reads, as IsTimeToSend says and without waiting for any,
  // until all are there; `bursts` times.
  absl::StatusOr<std::vector<double>> Bursts(int reads, int bursts, uint64_t seed) const;

 private:
  class Slots;
  struct File {
    std::string path;
    UniqueFd fd;
    uint64_t first_page = 0;  // counted over all files
  };

  RandomReader() = default;
  absl::Status ReadFor(int depth, double seconds, uint64_t seed, uint64_t* reads) const;
  const File& FileOf(uint64_t page) const;

  std::vector<File> files_;
  uint64_t pages_ = 0;
};

// Whether `queued` of the reads that are queued or under way are handed in now, in a system call of
// their own: when they are as many as the drive has, two at least. An idle drive then begins at
// once: of 48 reads the last is there 2 % sooner than in eights, which took 8 to 10 % less than all
// together.
inline bool IsTimeToSend(size_t queued, size_t in_flight) {
  return queued >= 2 && 2 * queued >= in_flight;
}

// Copies files into an empty directory with 1 MiB reads and writes, `depth` blocks under way at
// once, and syncs each. FailedPrecondition when direct I/O is refused.
absl::Status CopyFiles(const std::vector<std::string>& files, const std::string& directory,
                       int depth);

// Reads that a block device has done, from /sys; to see what really reached it.
struct DeviceReads {
  uint64_t reads = 0;
  double busy_seconds = 0;  // summed over the reads: divided by time, the mean number in flight
};
// NotFound where the file system lies on no single block device.
absl::StatusOr<DeviceReads> ReadDeviceCounters(const std::string& path);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_URING_READS_H_
