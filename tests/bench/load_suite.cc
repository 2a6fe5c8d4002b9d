// Bytes a second of a bulk load, from the start of `engramctl load` to its end, against copying the
// same files.
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/suites.h"
#include "tests/bench/uring_reads.h"

namespace engram::bench {
namespace {

constexpr uint64_t kTableBytes = uint64_t{4} << 30;
// The fastest of 2 to 64, by a little.
constexpr int kCopyDepth = 16;
constexpr size_t kCheckedRows = 8192;

absl::StatusOr<std::vector<std::string>> FilesIn(const std::string& directory) {
  std::vector<std::string> files;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(directory, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    files.push_back(entry->path().string());
  }
  if (!error) return files;
  return absl::UnavailableError(absl::StrCat("cannot list ", directory, ": ", error.message()));
}

class LoadSuite {
 public:
  LoadSuite(const BenchOptions& options, Reporter& reporter)
      : options_(options),
        reporter_(reporter),
        rounds_(options.rounds > 0 ? options.rounds
                : options.quick    ? 2
                                   : 3) {}

  absl::Status Run() {
    ENGRAM_ASSIGN_OR_RETURN(plan_, PlanTable(options_, kTableBytes));
    ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options_.dir));
    ENGRAM_RETURN_IF_ERROR(scratch.CheckOnDrive());
    ENGRAM_RETURN_IF_ERROR(
        scratch.CheckSpace(plan_.shape.Bytes() * 21 / 10 + (uint64_t{64} << 20)));
    checkpoint_ = scratch.File("checkpoint");
    reporter_.Note("load: making the checkpoint");
    ENGRAM_RETURN_IF_ERROR(WriteCheckpoint(plan_.shape, checkpoint_));
    ENGRAM_ASSIGN_OR_RETURN(daemon_, Daemon::Start(scratch, 0));
    for (int round = 0; round < rounds_; ++round) {
      // In turns, the first one too: whoever comes second meets the drive as the first left it.
      for (const bool load : {round % 2 == 0, round % 2 != 0}) {
        ENGRAM_RETURN_IF_ERROR(load ? LoadOnce() : CopyOnce(scratch));
      }
    }
    Report();
    return daemon_->process().Stop();
  }

 private:
  absl::Status LoadOnce() {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t cached_before, PageCacheBytes());
    ENGRAM_ASSIGN_OR_RETURN(const double before, daemon_->process().CpuSeconds());
    ENGRAM_ASSIGN_OR_RETURN(const double seconds, daemon_->Load(kTableName, checkpoint_));
    ENGRAM_ASSIGN_OR_RETURN(const double after, daemon_->process().CpuSeconds());
    load_seconds_.push_back(seconds);
    cpu_seconds_.push_back(after - before);
    ENGRAM_ASSIGN_OR_RETURN(const int64_t cached_after, PageCacheBytes());
    cached_bytes_.push_back(static_cast<double>(cached_after - cached_before));
    ENGRAM_ASSIGN_OR_RETURN(const MemoryUse memory, daemon_->process().Memory());
    peak_memory_ = memory.peak;
    ENGRAM_RETURN_IF_ERROR(CheckLoaded());
    return daemon_->Drop(kTableName);
  }

  // What was loaded fast must also be right.
  absl::Status CheckLoaded() {
    ENGRAM_ASSIGN_OR_RETURN(const auto caller, RowCaller::Connect(daemon_->target(), kCheckedRows));
    std::mt19937_64 random(load_seconds_.size());
    const RowIds ids = RowIds::Distinct(plan_.shape, kCheckedRows, random);
    ENGRAM_RETURN_IF_ERROR(caller->Call(ids, RowCaller::Expect::kNvmeOnly));
    return caller->Check(ids);
  }

  absl::Status CopyOnce(const ScratchDirectory& scratch) {
    const std::string target = scratch.File("copy");
    ENGRAM_RETURN_IF_ERROR(MakeFolder(target));
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesIn(checkpoint_));
    const Clock::time_point start = Clock::now();
    ENGRAM_RETURN_IF_ERROR(CopyFiles(files, target, kCopyDepth));
    copy_seconds_.push_back(SecondsSince(start));
    return RemoveTree(target);
  }

  void Report() {
    const double bytes = static_cast<double>(plan_.shape.Bytes());
    Result result{.name = "load/safetensors",
                  .value = bytes / Median(load_seconds_),
                  .unit = "B/s",
                  .baseline = bytes / Median(copy_seconds_),
                  .details = {}};
    result.details = {{"seconds", Median(load_seconds_)},
                      {"baseline_seconds", Median(copy_seconds_)},
                      {"baseline_is",
                       std::string("copy of the same files, 1 MiB direct reads and writes, fsync")},
                      {"depth", int64_t{kCopyDepth}},
                      {"cpu_seconds_per_gb", Median(cpu_seconds_) / bytes * 1e9},
                      {"daemon_peak_rss_bytes", peak_memory_},
                      {"page_cache_growth_bytes", static_cast<int64_t>(Median(cached_bytes_))},
                      {"rounds", int64_t{rounds_}}};
    plan_.Describe(result);
    reporter_.Print(result);
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  const int rounds_;
  TablePlan plan_;
  std::string checkpoint_;
  std::unique_ptr<Daemon> daemon_;
  std::vector<double> load_seconds_;
  std::vector<double> cpu_seconds_;
  std::vector<double> copy_seconds_;
  std::vector<double> cached_bytes_;  // by which the page cache grew, a load
  int64_t peak_memory_ = 0;           // of the daemon, over all loads so far
};

}  // namespace

absl::Status RunLoadSuite(const BenchOptions& options, Reporter& reporter) {
  return LoadSuite(options, reporter).Run();
}

}  // namespace engram::bench
