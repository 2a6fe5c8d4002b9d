// The table that a suite measures, and look-ups of it whose answers are checked.
//
// One thread at a time owns each object.
#ifndef ENGRAM_TESTS_BENCH_BENCH_TABLE_H_
#define ENGRAM_TESTS_BENCH_BENCH_TABLE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/report.h"
#include "tests/bench/synthetic_checkpoint.h"

namespace engram::bench {

inline constexpr char kTableName[] = "bench";

// How large a suite's table is to be, from the flags and the suite's own size.
struct TablePlan {
  CheckpointShape shape;
  bool small = false;  // smaller than the suite's own size: figures are not the suite's
  bool quick = false;

  // Table size, and the marks of results that must not be quoted.
  void Describe(Result& result) const;
};
absl::StatusOr<TablePlan> PlanTable(const BenchOptions& options, uint64_t suite_bytes);

// One call's row ids, layer after layer.
class RowIds {
 public:
  // `rows` distinct ids, divided evenly between the layers. Requires rows ≤ the table's.
  static RowIds Distinct(const TableShape& shape, size_t rows, std::mt19937_64& random);
  // `rows` ids of one layer, each drawn alike from all rows of the table's layer `index`.
  static RowIds Uniform(const TableShape& shape, size_t index, size_t rows,
                        std::mt19937_64& random);
  // `rows` ids drawn alike from those given, divided evenly between the layers.
  static RowIds From(const std::array<std::vector<uint32_t>, kLayers.size()>& given, size_t rows,
                     std::mt19937_64& random);
  // Rows first … first + rows − 1 of one layer.
  static RowIds Range(size_t index, uint32_t first, size_t rows);

  const std::vector<uint32_t>& all() const { return ids_; }
  absl::Span<const uint32_t> of(size_t index) const;

 private:
  std::vector<uint32_t> ids_;
  std::array<size_t, kLayers.size()> counts_{};
};

// Looks up rows of kTableName into memory of its own.
class RowCaller {
 public:
  enum class Expect { kAnyTier, kDramOnly, kNvmeOnly };

  // `max_rows` is the most that one call will ask for.
  static absl::StatusOr<std::unique_ptr<RowCaller>> Connect(
      const std::string& target, size_t max_rows, uint32_t row_bytes = kRowBytes,
      TransportKind transport = TransportKind::kGrpc);

  // FailedPrecondition when rows came from another tier than expected.
  absl::Status Call(const RowIds& ids, Expect expect);
  // Compares the rows of the last call, which asked for `ids`, with what was loaded.
  absl::Status Check(const RowIds& ids) const;
  // How many of the last call's rows DRAM served.
  uint64_t dram_rows() const { return dram_rows_; }

 private:
  RowCaller(std::unique_ptr<Client> client, size_t max_rows, uint32_t row_bytes)
      : client_(std::move(client)), row_bytes_(row_bytes), rows_(max_rows * row_bytes) {}

  const std::unique_ptr<Client> client_;
  const uint32_t row_bytes_;
  std::vector<std::byte> rows_;
  uint64_t dram_rows_ = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_BENCH_TABLE_H_
