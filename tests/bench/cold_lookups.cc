#include "tests/bench/cold_lookups.h"

#include <random>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/grpc/admin.h"
#include "storage/base/status_macros.h"

namespace engram::bench {
std::vector<std::string> DepthFlags(int depth) { return {"--nvme-depth", absl::StrCat(depth)}; }

absl::StatusOr<std::string> DescribeIo(const Daemon& daemon) {
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(daemon.target()));
  ENGRAM_ASSIGN_OR_RETURN(const v1::StatsResponse stats, admin->Stats());
  if (absl::StrContains(stats.nvme_io(), "direct I/O")) return stats.nvme_io();
  return absl::FailedPreconditionError(
      absl::StrCat("the daemon reads NVMe by ", stats.nvme_io(),
                   ", not past the page cache: name another --dir"));
}

double Samples::MedianOf(double Sample::*member) const {
  std::vector<double> values;
  for (const Sample& sample : all) values.push_back(sample.*member);
  return Median(std::move(values));
}

void AddSamples(const Samples& lookups, const Samples& reads, Result& result) {
  result.details.emplace_back("cpu_us_per_row", lookups.MedianOf(&Sample::cpu_us));
  result.details.emplace_back("baseline_cpu_us", reads.MedianOf(&Sample::cpu_us));
  if (lookups.MedianOf(&Sample::device_reads) <= 0) return;
  result.details.emplace_back("device_reads_per_row", lookups.MedianOf(&Sample::device_reads));
  result.details.emplace_back("device_depth", lookups.MedianOf(&Sample::device_depth));
  result.details.emplace_back("baseline_device_depth", reads.MedianOf(&Sample::device_depth));
}

void DeviceMeter::Finish(double count, double seconds, Sample& sample) const {
  const absl::StatusOr<DeviceReads> after = ReadDeviceCounters(path_);
  if (!before_.ok() || !after.ok()) return;
  sample.device_reads = static_cast<double>(after->reads - before_->reads) / count;
  sample.device_depth = (after->busy_seconds - before_->busy_seconds) / seconds;
}

absl::StatusOr<std::unique_ptr<ColdCallers>> ColdCallers::Connect(Daemon& daemon,
                                                                  const TableShape& shape,
                                                                  int calls, size_t rows_per_call) {
  std::unique_ptr<ColdCallers> callers(new ColdCallers(daemon, shape, rows_per_call));
  for (int i = 0; i < calls; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(auto caller,
                            RowCaller::Connect(daemon.target(), rows_per_call, shape.row_bytes));
    callers->callers_.push_back(std::move(caller));
  }
  return callers;
}

absl::StatusOr<Sample> ColdCallers::Round(double seconds, uint64_t seed,
                                          const std::string& device) const {
  ENGRAM_ASSIGN_OR_RETURN(const double cpu_before, daemon_.process().CpuSeconds());
  const DeviceMeter meter(device);
  std::atomic<uint64_t> rows{0};
  std::vector<absl::Status> statuses(callers_.size());
  std::vector<std::thread> threads;
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < callers_.size(); ++i) {
    threads.emplace_back(
        [&, i] { statuses[i] = CallFor(*callers_[i], seconds, seed * 1000 + i, rows); });
  }
  for (std::thread& thread : threads) thread.join();
  const double elapsed = SecondsSince(start);
  for (const absl::Status& status : statuses) ENGRAM_RETURN_IF_ERROR(status);
  ENGRAM_ASSIGN_OR_RETURN(const double cpu_after, daemon_.process().CpuSeconds());
  const double count = static_cast<double>(rows.load(std::memory_order_relaxed));
  Sample sample{.rate = count / elapsed, .cpu_us = (cpu_after - cpu_before) / count * 1e6};
  meter.Finish(count, elapsed, sample);
  return sample;
}

absl::Status ColdCallers::CallFor(RowCaller& caller, double seconds, uint64_t seed,
                                  std::atomic<uint64_t>& rows) const {
  std::mt19937_64 random(seed);
  const Clock::time_point start = Clock::now();
  while (SecondsSince(start) < seconds) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const RowIds ids = RowIds::Uniform(shape_, AnyLayer(shape_, random), rows_per_call_, random);
    ENGRAM_RETURN_IF_ERROR(caller.Call(ids, RowCaller::Expect::kNvmeOnly));
    ENGRAM_RETURN_IF_ERROR(caller.Check(ids));
    rows.fetch_add(ids.all().size(), std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

size_t AnyLayer(const TableShape& shape, std::mt19937_64& random) {
  return random() % shape.TotalRows() < shape.rows[0] ? 0 : 1;
}

absl::StatusOr<Sample> ReadRound(const RandomReader& reader, int depth, double seconds,
                                 uint64_t seed, const std::string& device) {
  const DeviceMeter meter(device);
  ENGRAM_ASSIGN_OR_RETURN(const RandomReader::Outcome outcome,
                          reader.Run(depth, kDriveThreads, seconds, seed * 1000));
  const double count = static_cast<double>(outcome.reads);
  Sample sample{.rate = count / outcome.seconds, .cpu_us = outcome.cpu_seconds / count * 1e6};
  meter.Finish(count, outcome.seconds, sample);
  return sample;
}

}  // namespace engram::bench
