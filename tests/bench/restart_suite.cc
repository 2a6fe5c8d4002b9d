// Seconds from a restart to the first row, with DRAM full before and after.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/suites.h"
#include "tests/bench/warm_table.h"

namespace engram::bench {
namespace {

constexpr uint64_t kTableBytes = uint64_t{8} << 30;
constexpr size_t kCheckedRows = 8192;

}  // namespace

absl::Status RunRestartSuite(const BenchOptions& options, Reporter& reporter) {
  ENGRAM_ASSIGN_OR_RETURN(const TablePlan plan, PlanTable(options, kTableBytes));
  ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options.dir));
  const uint64_t bytes = plan.shape.Bytes();
  ENGRAM_RETURN_IF_ERROR(scratch.CheckSpace(bytes * 9 / 4 + (uint64_t{64} << 20)));
  // Sets, which have to be checked one by one when they are taken over.
  const uint64_t dram_bytes = bytes - bytes / 16;
  ENGRAM_ASSIGN_OR_RETURN(const auto table,
                          WarmTable::Create(scratch, plan, dram_bytes, "restart"));
  std::mt19937_64 random(1);
  for (const bool kill : {false, true}) {
    const int rounds = options.Rounds(5);
    std::vector<double> seconds;
    std::vector<double> ready;
    for (int round = 0; round < rounds; ++round) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      ENGRAM_ASSIGN_OR_RETURN(const double one, table->Restart(kill));
      seconds.push_back(one);
      ready.push_back(table->daemon().start_seconds());
      // What DRAM held before, it holds now, and it is right.
      ENGRAM_ASSIGN_OR_RETURN(const auto caller,
                              RowCaller::Connect(table->daemon().target(), kCheckedRows));
      const RowIds ids =
          table->Draw(std::min<size_t>(kCheckedRows, table->held()[0].size()), random);
      ENGRAM_RETURN_IF_ERROR(caller->Call(ids, RowCaller::Expect::kDramOnly));
      ENGRAM_RETURN_IF_ERROR(caller->Check(ids));
    }
    Result result{.name = absl::StrCat("restart/", kill ? "kill" : "sigterm"),
                  .value = Median(seconds),
                  .unit = "s",
                  .baseline = table->fill_seconds(),
                  .details = {}};
    result.details = {
        {"better", std::string("lower")},
        {"what", std::string("from the start of the process to the first rows, out of DRAM")},
        {"baseline_is", std::string("filling DRAM from NVMe by look-ups of consecutive rows")},
        {"slowest_s", *std::max_element(seconds.begin(), seconds.end())},
        {"until_ready_s", Median(ready)},
        {"dram_bytes", static_cast<int64_t>(dram_bytes)},
        {"rounds", int64_t{rounds}}};
    plan.Describe(result);
    reporter.Print(result);
  }
  return table->daemon().process().Stop();
}

}  // namespace engram::bench
