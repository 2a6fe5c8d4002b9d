// engram_bench: measures engramd against what the machine can do. See README.md.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "storage/base/size.h"
#include "storage/table/spec.h"
#include "tests/bench/baseline_service.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/many_callers.h"
#include "tests/bench/suites.h"
#include "tests/bench/table_shape.h"

namespace engram::bench {
namespace {

constexpr uint64_t kLeastRows = 1000;
constexpr uint64_t kLeastParameters = 256'000;           // 1,000 rows
constexpr uint64_t kMostParameters = 2'000'000'000'000;  // beyond, two layers have too few ids

struct Flags {
  std::vector<std::string> suites;
  BenchOptions options;
  std::string table_bytes;
  std::string dram;
  std::string serve_baseline;
  std::string listen;
  ManyCallers::Load call;
  std::string call_counter;
};

std::string DefaultDirectory() {
  const char* directory = std::getenv("TMPDIR");
  return directory != nullptr && *directory != '\0' ? directory : "/tmp";
}

std::string SuiteHelp() {
  std::string text = "Suites:";
  for (const Suite& suite : kSuites) absl::StrAppend(&text, "\n  ", suite.name, "  ", suite.help);
  return text;
}

void Declare(CLI::App& app, Flags& flags) {
  std::vector<std::string> names;
  for (const Suite& suite : kSuites) names.emplace_back(suite.name);
  app.footer(SuiteHelp());
  app.add_option("SUITE", flags.suites, "what to measure, one or more")
      ->check(CLI::IsMember(names));
  app.add_option("--dir", flags.options.dir, "where data is made and removed again; a real drive")
      ->default_val(DefaultDirectory())
      ->check(CLI::ExistingDirectory);
  app.add_flag("--json", flags.options.json, "one JSON object a result, nothing else on stdout");
  app.add_option(
      "--table-bytes", flags.table_bytes,
      "row bytes of the table, as 512MiB; smaller than the suite's own marks the result");
  app.add_option("--rounds", flags.options.rounds,
                 "nvme, load, scale: rounds of each line; more of them are steadier")
      ->check(CLI::Range(1, 1000));
  app.add_option("--only", flags.options.only, "nvme, zipf: lines whose names begin so");
  app.add_option("--rows", flags.options.rows,
                 "scale: rows of the tables, separated by commas; zipf: of its table; trace: of "
                 "the cache")
      ->delimiter(',')
      ->check(CLI::Range(uint64_t{kLeastRows}, kLayers.size() * kMaxLayerRows));
  app.add_option("--parameters", flags.options.parameters, "params: parameters of the table")
      ->check(CLI::Range(uint64_t{kLeastParameters}, kMostParameters));
  app.add_option("--dram", flags.dram, "params: the daemon's DRAM tier; 16GiB if not given");
  app.add_option("--trace", flags.options.trace,
                 "trace: files of row ids (uint32) that warm the cache, separated by commas")
      ->delimiter(',')
      ->check(CLI::ExistingFile);
  app.add_option("--test-trace", flags.options.test_trace, "trace: files that are measured then")
      ->delimiter(',')
      ->check(CLI::ExistingFile);
  app.add_option("--sequences", flags.options.sequences,
                 "trace: so many documents are served at once, in turns")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--turn", flags.options.turn,
                 "trace: ids of a document in its turn; 1 if not given")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--tokenizer", flags.options.tokenizer,
                 "trace: the files hold token ids of this directory's tokenizer.json, "
                 "DeepSeek-V4.1's; replayed is one layer of its table")
      ->check(CLI::ExistingDirectory);
  app.add_flag("--quick", flags.options.quick,
               "tiny tables and short rounds: only to see that it works");
  // For this program's own child processes.
  app.add_option("--serve-baseline", flags.serve_baseline)->group("");
  app.add_option("--listen", flags.listen)->group("");
  app.add_option("--call", flags.call.target)->group("");
  app.add_option("--call-clients", flags.call.clients)->group("");
  app.add_option("--call-rows", flags.call.rows_per_call)->group("");
  app.add_option("--call-seed", flags.call.seed)->group("");
  app.add_option("--call-counter", flags.call_counter)->group("");
}

int Serve(const Flags& flags) {
  const absl::StatusOr<BaselineKind> kind = ParseBaselineKind(flags.serve_baseline);
  if (kind.ok()) return ServeBaseline(*kind, flags.listen);
  std::cerr << "engram_bench: --serve-baseline: " << kind.status().message() << "\n";
  return 2;
}

int Call(const Flags& flags) {
  const absl::StatusOr<TablePlan> plan = PlanTable(flags.options, kFairTableBytes);
  if (plan.ok()) return ManyCallers::Main(flags.call, plan->shape, flags.call_counter);
  std::cerr << "engram_bench: --call: " << plan.status().message() << "\n";
  return 2;
}

int Measure(const Flags& flags) {
  CatchInterrupts();
  Reporter reporter(flags.options.json, DescribeMachine(flags.options.dir));
  for (const Suite& suite : kSuites) {
    const auto& wanted = flags.suites;
    if (std::find(wanted.begin(), wanted.end(), suite.name) == wanted.end()) continue;
    const absl::Status status = suite.run(flags.options, reporter);
    if (status.ok()) continue;
    std::cerr << "engram_bench: " << suite.name << ": " << status.message() << "\n";
    return absl::IsInvalidArgument(status) ? 2 : 1;
  }
  return 0;
}

// False, after saying why, when a size is given that is none.
bool ReadSize(const char* flag, const std::string& text, uint64_t& out) {
  if (text.empty()) return true;
  const absl::StatusOr<uint64_t> bytes = ParseSize(text);
  if (bytes.ok() && *bytes > 0) {
    out = *bytes;
    return true;
  }
  std::cerr << "engram_bench: " << flag << ": "
            << (bytes.ok() ? "0 is too little" : bytes.status().message()) << "\n";
  return false;
}

int Main(int argc, char** argv) {
  CLI::App app("Measures engramd against what this machine can do");
  Flags flags;
  Declare(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!flags.serve_baseline.empty()) return Serve(flags);
  if (flags.suites.empty() && flags.call.target.empty()) {
    std::cerr << "engram_bench: name a suite; --help lists them\n";
    return 2;
  }
  if (!ReadSize("--table-bytes", flags.table_bytes, flags.options.table_bytes) ||
      !ReadSize("--dram", flags.dram, flags.options.dram_bytes)) {
    return 2;
  }
  flags.call.table = flags.options;
  if (!flags.call.target.empty()) return Call(flags);
  flags.options.command = absl::StrJoin(argv, argv + argc, " ");
  return Measure(flags);
}

}  // namespace
}  // namespace engram::bench

int main(int argc, char** argv) {
  // As engramd does; for its baselines, too (server/rpc/grpc_server.cc says why).
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return engram::bench::Main(argc, argv);
}
