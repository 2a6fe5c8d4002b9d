// The bare limit that `shm` is compared with: rows gathered from one array in this process' own
// memory, with software prefetch, by one thread.
//
// One thread at a time owns an object; Gather may be called by several at once.
#ifndef ENGRAM_TESTS_BENCH_RESIDENT_ARRAY_H_
#define ENGRAM_TESTS_BENCH_RESIDENT_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace engram {
class Segment;
class SegmentStore;
}  // namespace engram

namespace engram::bench {

class ResidentArray {
 public:
  // `rows` rows of `row_bytes`, in memory of the kind that a daemon with this shm_dir takes.
  static absl::StatusOr<std::unique_ptr<ResidentArray>> Create(const std::string& shm_dir,
                                                               uint64_t rows, uint32_t row_bytes);
  ~ResidentArray();

  std::byte* row(uint64_t id) const { return rows_ + id * row_bytes_; }
  // "1.25GiB of 1.25GiB in huge pages".
  std::string Pages() const;

  // Copies the rows of `ids` to `out`, packed. `distance`: how many rows ahead are fetched.
  void Gather(absl::Span<const uint32_t> ids, std::byte* out, size_t distance) const;

 private:
  ResidentArray() = default;
  std::unique_ptr<SegmentStore> store_;
  std::shared_ptr<Segment> segment_;
  std::byte* rows_ = nullptr;
  size_t row_bytes_ = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_RESIDENT_ARRAY_H_
