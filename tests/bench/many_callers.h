// Many clients at once, from few threads: each has a connection and one call for cold rows in
// flight, and sends the next when it is answered (on gRPC's own threads, of which there are as many
// as cores). In a process of their own, for gRPC's threads are shared by all clients of a process,
// and whoever is measured would wait for theirs.
//
// One thread at a time owns the object.
#ifndef ENGRAM_TESTS_BENCH_MANY_CALLERS_H_
#define ENGRAM_TESTS_BENCH_MANY_CALLERS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/table_shape.h"

namespace engram::bench {

class ManyCallers {
 public:
  // What they ask for: uniform ids of kTableName.
  struct Load {
    std::string target;
    int clients = 64;
    uint64_t rows_per_call = 8192;
    uint64_t seed = 1;
    BenchOptions table;  // table_bytes and quick say which table it is
  };
  // Returns once all are connected and calling.
  static absl::StatusOr<std::unique_ptr<ManyCallers>> Start(const ScratchDirectory& scratch,
                                                            const Load& load);
  ~ManyCallers();

  // Rows that were answered, and compared, so far.
  uint64_t rows() const { return rows_->load(std::memory_order_relaxed); }
  // Ends the calls; Internal if one failed.
  absl::Status Stop() { return process_->Stop(); }

  // The other process: calls until it is interrupted, and counts in the file `counter`. Returns its
  // exit status.
  static int Main(const Load& load, const TableShape& shape, const std::string& counter);

 private:
  ManyCallers() = default;

  std::unique_ptr<ChildProcess> process_;
  std::atomic<uint64_t>* rows_ = nullptr;  // in memory that both processes map; relaxed: statistics
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_MANY_CALLERS_H_
