// A table of 100 billion parameters of 4 bits, loaded once and served: does it fit, is every byte
// right, and how fast is it?
#include <algorithm>
#include <memory>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/grpc/admin.h"
#include "storage/base/status_macros.h"
#include "tests/bench/cold_lookups.h"
#include "tests/bench/suites.h"
#include "tests/bench/synthetic_load.h"

namespace engram::bench {
namespace {

// A row: 256 values of 4 bits, and one scale of 8 bits for each 64 of them.
constexpr uint64_t kValuesPerRow = 256;
constexpr uint32_t kBytesPerRow = 128 + 4;
constexpr char kRowFormat[] = "f4[256] f8_e8m0[4]";
constexpr uint64_t kSuiteParameters = 100'000'000'000;
constexpr size_t kRowsPerCall = 8192;
constexpr int kDepth = 128;
constexpr int kRounds = 20;

class ParamsSuite {
 public:
  ParamsSuite(const BenchOptions& options, Reporter& reporter, const ScratchDirectory& scratch)
      : options_(options),
        reporter_(reporter),
        scratch_(scratch),
        parameters_(options.parameters > 0 ? options.parameters
                    : options.quick        ? 100'000 * kValuesPerRow
                                           : kSuiteParameters),
        shape_(ShapeOf((parameters_ + kValuesPerRow - 1) / kValuesPerRow, kBytesPerRow)),
        checked_rows_(options.quick ? 20'000 : 1'000'000) {}

  absl::Status Run() {
    ENGRAM_RETURN_IF_ERROR(scratch_.CheckOnDrive());
    ENGRAM_RETURN_IF_ERROR(scratch_.CheckSpace(shape_.Bytes() / 100 * 106 + (uint64_t{64} << 20)));
    reporter_.Note(
        absl::StrCat("params: loading ", shape_.TotalRows(), " rows of ", kBytesPerRow, " bytes"));
    ENGRAM_ASSIGN_OR_RETURN(load_,
                            LoadSynthetic(shape_, kRowFormat, scratch_.File("data"), reporter_));
    ENGRAM_ASSIGN_OR_RETURN(daemon_,
                            Daemon::Start(scratch_, options_.dram_bytes, DepthFlags(kDepth)));
    ENGRAM_ASSIGN_OR_RETURN(at_start_, daemon_->process().Memory());
    ENGRAM_ASSIGN_OR_RETURN(const std::string io, DescribeIo(*daemon_));
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> files, daemon_->DataFiles());
    ENGRAM_ASSIGN_OR_RETURN(const auto reader, RandomReader::Open(files));
    ENGRAM_ASSIGN_OR_RETURN(const auto caller,
                            RowCaller::Connect(daemon_->target(), kRowsPerCall, kBytesPerRow));
    Samples lookups;
    Samples reads;
    for (int round = 0; round < kRounds; ++round) {
      ENGRAM_ASSIGN_OR_RETURN(const Sample rows, LookUp(*caller, checked_rows_ / kRounds));
      lookups.all.push_back(rows);
      ENGRAM_ASSIGN_OR_RETURN(const Sample pages,
                              ReadRound(*reader, kDepth, options_.quick ? 0.05 : 1.0,
                                        static_cast<uint64_t>(round), scratch_.path()));
      reads.all.push_back(pages);
    }
    ENGRAM_RETURN_IF_ERROR(Report(io, lookups, reads));
    return daemon_->process().Stop();
  }

 private:
  // Random rows, every byte compared. The rate is of rows that came from the drive.
  absl::StatusOr<Sample> LookUp(RowCaller& caller, size_t rows) {
    ENGRAM_ASSIGN_OR_RETURN(const double cpu_before, daemon_->process().CpuSeconds());
    const DeviceMeter meter(scratch_.path());
    uint64_t cold = 0;
    double seconds = 0;
    for (size_t done = 0; done < rows;) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      const size_t count = std::min(kRowsPerCall, rows - done);
      const RowIds ids = RowIds::Uniform(shape_, AnyLayer(shape_, random_), count, random_);
      const Clock::time_point start = Clock::now();
      ENGRAM_RETURN_IF_ERROR(caller.Call(ids, RowCaller::Expect::kAnyTier));
      seconds += SecondsSince(start);
      ENGRAM_RETURN_IF_ERROR(caller.Check(ids));
      cold += count - caller.dram_rows();
      done += count;
    }
    ENGRAM_ASSIGN_OR_RETURN(const double cpu_after, daemon_->process().CpuSeconds());
    cold_rows_ += cold;
    const double count = static_cast<double>(cold);
    Sample sample{.rate = count / seconds, .cpu_us = (cpu_after - cpu_before) / count * 1e6};
    meter.Finish(count, seconds, sample);
    return sample;
  }

  absl::StatusOr<int64_t> DramBytesHeld() const {
    ENGRAM_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(daemon_->target()));
    ENGRAM_ASSIGN_OR_RETURN(const v1::StatsResponse stats, admin->Stats());
    int64_t held = 0;
    for (const v1::TableStats& table : stats.tables()) {
      for (const v1::LayerStats& layer : table.layers()) {
        held += static_cast<int64_t>(layer.tiers().dram().bytes());
      }
    }
    return held;
  }

  absl::Status Report(const std::string& io, const Samples& lookups, const Samples& reads) {
    ENGRAM_ASSIGN_OR_RETURN(const MemoryUse memory, daemon_->process().Memory());
    ENGRAM_ASSIGN_OR_RETURN(const int64_t held, DramBytesHeld());
    Result result{.name = "params/lookup",
                  .value = lookups.MedianOf(&Sample::rate),
                  .unit = "rows/s",
                  .baseline = reads.MedianOf(&Sample::rate),
                  .details = {}};
    result.details = {
        {"command", options_.command},
        {"parameters", static_cast<int64_t>(parameters_)},
        {"rows", static_cast<int64_t>(shape_.TotalRows())},
        {"row_bytes", int64_t{kBytesPerRow}},
        {"row_format", std::string(kRowFormat)},
        {"table_bytes", static_cast<int64_t>(shape_.Bytes())},
        {"load_seconds", load_.seconds},
        {"load_bytes_per_s", static_cast<double>(shape_.Bytes()) / load_.seconds},
        {"load_peak_rss_bytes", load_.peak_memory},
        {"disk_bytes", static_cast<int64_t>(load_.disk_bytes)},
        {"disk_bytes_per_row_byte",
         static_cast<double>(load_.disk_bytes) / static_cast<double>(shape_.Bytes())},
        {"start_seconds", daemon_->start_seconds()},
        {"dram_budget_bytes", static_cast<int64_t>(options_.dram_bytes)},
        {"dram_rows_bytes", held},
        {"rss_bytes_at_start", at_start_.now},
        {"rss_bytes_after_lookups", memory.now},
        {"peak_rss_bytes", memory.peak},
        {"checked_rows", static_cast<int64_t>(checked_rows_)},
        {"cold_rows", static_cast<int64_t>(cold_rows_)},
        {"depth", int64_t{kDepth}},
        {"rows_per_call", static_cast<int64_t>(kRowsPerCall)},
        {"nvme_io", io},
        {"baseline_is", std::string("random 4 KiB O_DIRECT reads of the table's own files")}};
    AddSamples(lookups, reads, result);
    if (parameters_ < kSuiteParameters) result.details.emplace_back("small", true);
    if (options_.quick) result.details.emplace_back("quick", true);
    reporter_.Print(result);
    return absl::OkStatus();
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  const ScratchDirectory& scratch_;
  const uint64_t parameters_;
  const TableShape shape_;
  const size_t checked_rows_;
  LoadOutcome load_;
  std::unique_ptr<Daemon> daemon_;
  MemoryUse at_start_;
  uint64_t cold_rows_ = 0;
  std::mt19937_64 random_{20261124};
};

}  // namespace

absl::Status RunParamsSuite(const BenchOptions& options, Reporter& reporter) {
  ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options.dir));
  return ParamsSuite(options, reporter, scratch).Run();
}

}  // namespace engram::bench
