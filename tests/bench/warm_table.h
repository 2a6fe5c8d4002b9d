// A table in a daemon's DRAM, for the suites that measure memory.
//
// One thread at a time owns an object.
#ifndef ENGRAM_TESTS_BENCH_WARM_TABLE_H_
#define ENGRAM_TESTS_BENCH_WARM_TABLE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/bench_table.h"

namespace engram::bench {

class WarmTable {
 public:
  // Loads a table of the plan's shape into a daemon with this DRAM budget, and looks every row up
  // until DRAM holds all that it will; the first time each row is compared with what was loaded.
  static absl::StatusOr<std::unique_ptr<WarmTable>> Create(const ScratchDirectory& scratch,
                                                           const TablePlan& plan,
                                                           uint64_t dram_bytes,
                                                           const std::string& name);

  Daemon& daemon() { return *daemon_; }
  // Ids that DRAM held at the end, of each layer.
  const std::array<std::vector<uint32_t>, kLayers.size()>& held() const { return held_; }
  // How long it took to read all rows into DRAM, by look-ups of consecutive rows.
  double fill_seconds() const { return fill_seconds_; }

  // `rows` ids that are held, divided evenly between the layers.
  RowIds Draw(size_t rows, std::mt19937_64& random) const;

  // Ends the daemon, by SIGTERM or SIGKILL, and restarts it on the same data; gives the seconds
  // from its start until it had served one row, from DRAM.
  absl::StatusOr<double> Restart(bool kill);

 private:
  WarmTable(const ScratchDirectory& scratch, const TablePlan& plan, uint64_t dram_bytes,
            std::string name)
      : scratch_(scratch), plan_(plan), dram_bytes_(dram_bytes), name_(std::move(name)) {}
  absl::Status Fill(bool check);
  absl::Status FindHeld();

  const ScratchDirectory& scratch_;
  const TablePlan& plan_;
  const uint64_t dram_bytes_;
  const std::string name_;
  std::unique_ptr<Daemon> daemon_;
  std::array<std::vector<uint32_t>, kLayers.size()> held_;
  double fill_seconds_ = 0;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_WARM_TABLE_H_
