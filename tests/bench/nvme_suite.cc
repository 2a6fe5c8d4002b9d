// Rows a second from NVMe alone, uniform ids, against random reads of the same files.
#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/admin.h"
#include "storage/base/status_macros.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/suites.h"
#include "tests/bench/uring_reads.h"

namespace engram::bench {
namespace {

// A little over 8 GiB, to be clear of the bound.
constexpr uint64_t kTableBytes = (uint64_t{8} << 30) + (uint64_t{50} << 20);
constexpr size_t kMaxRowsPerCall = 8192;

struct Workload {
  const char* name;
  size_t rows_per_call;
  int calls;         // in flight, each from a thread of the client's
  int read_threads;  // of the daemon; 0: its default. The caller's own thread reads, too.
  // The most pages that the daemon can have in flight, and from how many threads: the baseline's.
  int depth;
  int threads;
};

// The daemon reads a batch in groups of 32 pages, one a thread. So a large batch on 3 + 1 threads
// is depth 128, and calls of no more rows than the depth bound it from outside. The last line is
// the daemon as it comes.
constexpr Workload kWorkloads[] = {
    {"nvme/depth_32", 32, 1, 0, 32, 1},
    {"nvme/depth_128", kMaxRowsPerCall, 1, 3, 128, 4},
    {"nvme/depth_128/calls_of_32", 32, 4, 0, 128, 4},
    {"nvme/default_160", kMaxRowsPerCall, 1, 0, 160, 5},
};

struct Sample {
  double rate = 0;  // rows or reads a second
  double cpu_us = 0;
  double device_reads = 0;  // a row
  double device_depth = 0;  // mean number of reads in flight at the device
};

// What several rounds of the same came to.
struct Samples {
  std::vector<Sample> all;
  double MedianOf(double Sample::*member) const {
    std::vector<double> values;
    for (const Sample& sample : all) values.push_back(sample.*member);
    return Median(values);
  }
};

class NvmeSuite {
 public:
  NvmeSuite(const BenchOptions& options, Reporter& reporter)
      : options_(options),
        reporter_(reporter),
        rounds_(options.quick ? 1 : 5),
        round_seconds_(options.quick ? 0.1 : 3.0) {}

  absl::Status Run() {
    ENGRAM_ASSIGN_OR_RETURN(plan_, PlanTable(options_, kTableBytes));
    ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options_.dir));
    ENGRAM_RETURN_IF_ERROR(scratch.CheckOnDrive());
    ENGRAM_RETURN_IF_ERROR(
        scratch.CheckSpace(plan_.shape.Bytes() * 21 / 10 + (uint64_t{64} << 20)));
    ENGRAM_RETURN_IF_ERROR(LoadTable(scratch));
    for (const Workload& workload : kWorkloads) {
      ENGRAM_RETURN_IF_ERROR(Measure(scratch, workload));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status LoadTable(const ScratchDirectory& scratch) {
    const std::string checkpoint = scratch.File("checkpoint");
    reporter_.Note("nvme: making and loading the table");
    ENGRAM_RETURN_IF_ERROR(WriteCheckpoint(plan_.shape, checkpoint));
    ENGRAM_ASSIGN_OR_RETURN(const auto daemon, Daemon::Start(scratch, 0));
    ENGRAM_RETURN_IF_ERROR(daemon->Load(kTableName, checkpoint).status());
    ENGRAM_RETURN_IF_ERROR(RemoveTree(checkpoint));
    return daemon->process().Stop();
  }

  absl::Status Measure(const ScratchDirectory& scratch, const Workload& workload) {
    std::vector<std::string> flags;
    if (workload.read_threads > 0) {
      flags = {"--read-threads", absl::StrCat(workload.read_threads)};
    }
    ENGRAM_ASSIGN_OR_RETURN(const auto daemon, Daemon::Start(scratch, 0, flags));
    ENGRAM_ASSIGN_OR_RETURN(const std::string io, DescribeIo(*daemon));
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> files, daemon->DataFiles());
    ENGRAM_ASSIGN_OR_RETURN(const auto reader, RandomReader::Open(files));
    std::vector<std::unique_ptr<RowCaller>> callers;
    for (int i = 0; i < workload.calls; ++i) {
      ENGRAM_ASSIGN_OR_RETURN(auto caller,
                              RowCaller::Connect(daemon->target(), workload.rows_per_call));
      callers.push_back(std::move(caller));
    }
    Samples lookups;
    Samples reads;
    for (int round = 0; round < rounds_; ++round) {
      ENGRAM_ASSIGN_OR_RETURN(const Sample rows, LookUp(scratch, *daemon, workload, callers));
      lookups.all.push_back(rows);
      ENGRAM_ASSIGN_OR_RETURN(const Sample pages, ReadRaw(scratch, *reader, workload));
      reads.all.push_back(pages);
    }
    Report(workload, io, reader->bytes(), lookups, reads);
    return daemon->process().Stop();
  }

  // How the daemon reads, in its own words. FailedPrecondition if the page cache is in the way.
  static absl::StatusOr<std::string> DescribeIo(const Daemon& daemon) {
    ENGRAM_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(daemon.target()));
    ENGRAM_ASSIGN_OR_RETURN(const v1::StatsResponse stats, admin->Stats());
    if (absl::StrContains(stats.nvme_io(), "direct I/O")) return stats.nvme_io();
    return absl::FailedPreconditionError(absl::StrCat("the daemon reads NVMe by ", stats.nvme_io(),
                                                      ", not past the page cache: name another "
                                                      "--dir"));
  }

  // One round of look-ups from all callers at once.
  absl::StatusOr<Sample> LookUp(const ScratchDirectory& scratch, Daemon& daemon,
                                const Workload& workload,
                                const std::vector<std::unique_ptr<RowCaller>>& callers) {
    ENGRAM_ASSIGN_OR_RETURN(const double cpu_before, daemon.process().CpuSeconds());
    const absl::StatusOr<DeviceReads> device_before = ReadDeviceCounters(scratch.path());
    std::atomic<uint64_t> rows{0};  // relaxed: read after the threads are joined
    std::vector<absl::Status> statuses(callers.size());
    std::vector<std::thread> threads;
    const Clock::time_point start = Clock::now();
    for (size_t i = 0; i < callers.size(); ++i) {
      threads.emplace_back(
          [&, i, seed = seed_++] { statuses[i] = CallFor(workload, *callers[i], seed, rows); });
    }
    for (std::thread& thread : threads) thread.join();
    const double seconds = SecondsSince(start);
    for (const absl::Status& status : statuses) ENGRAM_RETURN_IF_ERROR(status);
    ENGRAM_ASSIGN_OR_RETURN(const double cpu_after, daemon.process().CpuSeconds());
    const double count = static_cast<double>(rows.load(std::memory_order_relaxed));
    Sample sample{.rate = count / seconds, .cpu_us = (cpu_after - cpu_before) / count * 1e6};
    AddDevice(scratch, device_before, count, seconds, sample);
    return sample;
  }

  // Calls one after the other. The rows of every call are compared: a cold row takes the drive far
  // longer than us.
  absl::Status CallFor(const Workload& workload, RowCaller& caller, uint64_t seed,
                       std::atomic<uint64_t>& rows) const {
    std::mt19937_64 random(seed);
    const Clock::time_point start = Clock::now();
    while (SecondsSince(start) < round_seconds_) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      const size_t layer = random() % plan_.shape.TotalRows() < plan_.shape.rows[0] ? 0 : 1;
      const RowIds ids = RowIds::Uniform(plan_.shape, layer, workload.rows_per_call, random);
      ENGRAM_RETURN_IF_ERROR(caller.Call(ids, RowCaller::Expect::kNvmeOnly));
      ENGRAM_RETURN_IF_ERROR(caller.Check(ids));
      rows.fetch_add(ids.all().size(), std::memory_order_relaxed);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Sample> ReadRaw(const ScratchDirectory& scratch, const RandomReader& reader,
                                 const Workload& workload) {
    const absl::StatusOr<DeviceReads> before = ReadDeviceCounters(scratch.path());
    ENGRAM_ASSIGN_OR_RETURN(
        const RandomReader::Outcome outcome,
        reader.Run(workload.depth, workload.threads, round_seconds_, seed_++ * 1000));
    const double count = static_cast<double>(outcome.reads);
    Sample sample{.rate = count / outcome.seconds};
    AddDevice(scratch, before, count, outcome.seconds, sample);
    return sample;
  }

  static void AddDevice(const ScratchDirectory& scratch, const absl::StatusOr<DeviceReads>& before,
                        double count, double seconds, Sample& sample) {
    const absl::StatusOr<DeviceReads> after = ReadDeviceCounters(scratch.path());
    if (!before.ok() || !after.ok()) return;
    sample.device_reads = static_cast<double>(after->reads - before->reads) / count;
    sample.device_depth = (after->busy_seconds - before->busy_seconds) / seconds;
  }

  void Report(const Workload& workload, const std::string& io, uint64_t file_bytes,
              const Samples& lookups, const Samples& reads) {
    Result result{.name = workload.name,
                  .value = lookups.MedianOf(&Sample::rate),
                  .unit = "rows/s",
                  .baseline = reads.MedianOf(&Sample::rate),
                  .details = {}};
    result.details = {
        {"depth", int64_t{workload.depth}},
        {"threads", int64_t{workload.threads}},
        {"rows_per_call", static_cast<int64_t>(workload.rows_per_call)},
        {"calls_in_flight", int64_t{workload.calls}},
        {"cpu_us_per_row", lookups.MedianOf(&Sample::cpu_us)},
        {"nvme_io", io},
        {"baseline_is", std::string("random 4 KiB O_DIRECT reads of the table's own files")},
        {"baseline_file_bytes", static_cast<int64_t>(file_bytes)},
        {"rounds", int64_t{rounds_}},
        {"round_seconds", round_seconds_}};
    if (lookups.MedianOf(&Sample::device_reads) > 0) {
      result.details.emplace_back("device_reads_per_row", lookups.MedianOf(&Sample::device_reads));
      result.details.emplace_back("device_depth", lookups.MedianOf(&Sample::device_depth));
      result.details.emplace_back("baseline_device_depth", reads.MedianOf(&Sample::device_depth));
    }
    plan_.Describe(result);
    reporter_.Print(result);
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  const int rounds_;
  const double round_seconds_;
  TablePlan plan_;
  uint64_t seed_ = 20261124;
};

}  // namespace

absl::Status RunNvmeSuite(const BenchOptions& options, Reporter& reporter) {
  return NvmeSuite(options, reporter).Run();
}

}  // namespace engram::bench
