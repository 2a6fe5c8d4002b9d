// FlatFile: the table as somebody writes it who needs nothing but speed: row i of the table lies at
// i × row bytes, the second layer's rows behind the first's. No keys, no checksums. What the store
// costs beside it is what those cost.
//
// One thread at a time; blocks on the drive.
#ifndef ENGRAM_TESTS_BENCH_FLAT_FILE_H_
#define ENGRAM_TESTS_BENCH_FLAT_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/unique_fd.h"
#include "tests/bench/table_shape.h"

namespace engram::bench {

class FlatFile {
 public:
  // Writes the file, and opens it past the page cache. Errors as AppendFile and OpenDirect.
  static absl::StatusOr<std::unique_ptr<FlatFile>> Make(const TableShape& shape,
                                                        const std::string& path);

  struct Outcome {
    uint64_t rows = 0;
    double seconds = 0;
    double cpu_seconds = 0;  // of the whole process, which does nothing else meanwhile
  };
  // For about `seconds`, one batch of `rows_per_batch` uniform ids of one layer after the other:
  // for each row the one or two aligned 4 KiB that hold it are read, `depth` rows in flight at
  // once, and the row is copied to its place. Then all rows are compared, as those of a look-up
  // are. DataLoss, Cancelled, or Unavailable for what the drive says.
  absl::StatusOr<Outcome> Run(int depth, size_t rows_per_batch, double seconds,
                              uint64_t seed) const;

 private:
  class Batch;

  explicit FlatFile(const TableShape& shape) : shape_(shape) {}
  uint64_t OffsetOf(size_t layer, uint32_t row) const {
    return ((layer == 0 ? 0 : shape_.rows[0]) + row) * shape_.row_bytes;
  }

  const TableShape shape_;
  UniqueFd fd_;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_FLAT_FILE_H_
