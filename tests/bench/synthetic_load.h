// Loads a table that no checkpoint holds: its rows are made as they are asked for (table_shape.h),
// so that only the table needs disk. From the row source on it is the daemon's own way: RunLoadFrom
// over a store in this process, with the daemon's default settings.
#ifndef ENGRAM_TESTS_BENCH_SYNTHETIC_LOAD_H_
#define ENGRAM_TESTS_BENCH_SYNTHETIC_LOAD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tests/bench/report.h"
#include "tests/bench/table_shape.h"

namespace engram::bench {

struct LoadOutcome {
  double seconds = 0;  // from the start to published
  // Of the database once it is closed; not what the data directory holds in reserve, 32 MiB
  // whatever lies in it.
  uint64_t disk_bytes = 0;
  int64_t peak_memory = 0;  // resident memory of this process, in bytes
};

// `rows` over all layers, divided as evenly as can be.
TableShape ShapeOf(uint64_t rows, uint32_t row_bytes);

// Blocks. The table is kTableName, addressed by ids; `row_format` says for people what a row is.
// Errors: those of Store::Open and RunLoadFrom; Cancelled by an interrupt.
absl::StatusOr<LoadOutcome> LoadSynthetic(const TableShape& shape, const std::string& row_format,
                                          const std::string& data_dir, Reporter& reporter);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_SYNTHETIC_LOAD_H_
