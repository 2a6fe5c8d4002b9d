// Whether a row costs the same in a large table as in a small one: time, disk and memory.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/cold_lookups.h"
#include "tests/bench/suites.h"
#include "tests/bench/synthetic_load.h"

namespace engram::bench {
namespace {

constexpr uint64_t kBaseRows = 10'000'000;
constexpr uint64_t kLargeRows = 100'000'000;
constexpr uint64_t kQuickRows[] = {20'000, 60'000, 100'000};  // instead of these and the largest
constexpr uint64_t kTinyRows = 1000;
constexpr uint64_t kRounded = 1'000'000;  // the largest is a multiple of it
constexpr uint32_t kOtherRowBytes = 160;
constexpr size_t kRowsPerCall = 8192;
constexpr int kDepth = 128;

// What a table may take on disk: a little more than its rows, and what a database has anyway.
constexpr uint64_t kDatabaseBytes = uint64_t{64} << 20;
uint64_t DiskFor(uint64_t rows, uint32_t row_bytes) {
  return rows * row_bytes / 100 * 106 + kDatabaseBytes;
}

// A table of its own in a directory of its own, with the daemon that serves it.
struct Table {
  std::string data;
  TableShape shape;
  LoadOutcome load;
  std::unique_ptr<Daemon> daemon;
  std::unique_ptr<ColdCallers> callers;
  std::unique_ptr<RandomReader> reader;
  MemoryUse at_start;
};

class ScaleSuite {
 public:
  ScaleSuite(const BenchOptions& options, Reporter& reporter, const ScratchDirectory& scratch)
      : options_(options),
        reporter_(reporter),
        scratch_(scratch),
        rounds_(options.Rounds(5)),
        round_seconds_(options.quick ? 0.1 : 3.0) {}

  absl::Status Run() {
    ENGRAM_RETURN_IF_ERROR(scratch_.CheckOnDrive());
    ENGRAM_RETURN_IF_ERROR(MeasureEmpty());
    const std::vector<uint64_t>& asked = options_.rows;
    base_rows_ = options_.quick ? kQuickRows[0] : kBaseRows;
    for (const uint64_t rows : asked) base_rows_ = std::min(base_rows_, rows);
    ENGRAM_ASSIGN_OR_RETURN(base_, Make("base", ShapeOf(base_rows_, kRowBytes)));
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> sizes, Sizes());
    for (const uint64_t rows : sizes) {
      const std::string name = absl::StrCat("scale/rows_", rows);
      if (rows == base_rows_) {
        ENGRAM_RETURN_IF_ERROR(Measure(name, base_));
      } else {
        ENGRAM_RETURN_IF_ERROR(MakeAndMeasure(name, ShapeOf(rows, kRowBytes)));
      }
    }
    ENGRAM_RETURN_IF_ERROR(MakeAndMeasure(absl::StrCat("scale/row_bytes_", kOtherRowBytes),
                                          ShapeOf(base_rows_, kOtherRowBytes)));
    return base_.daemon->process().Stop();
  }

 private:
  // What a daemon takes whose table is as good as none: before it has served anything, and with the
  // buffers of such calls as are measured.
  absl::Status MeasureEmpty() {
    {
      ENGRAM_ASSIGN_OR_RETURN(const auto daemon,
                              Daemon::Start(scratch_, 0, DepthFlags(kDepth), "empty"));
      ENGRAM_ASSIGN_OR_RETURN(empty_, daemon->process().Memory());
      ENGRAM_RETURN_IF_ERROR(daemon->process().Stop());
    }
    ENGRAM_ASSIGN_OR_RETURN(const Table tiny, Make("tiny", ShapeOf(kTinyRows, kRowBytes)));
    ENGRAM_RETURN_IF_ERROR(tiny.callers->Round(round_seconds_, seed_++, scratch_.path()).status());
    ENGRAM_ASSIGN_OR_RETURN(tiny_, tiny.daemon->process().Memory());
    return tiny.daemon->process().Stop();
  }

  // Those asked for; else 10^7, 10^8 and what fits, with a tenth of the space left free.
  absl::StatusOr<std::vector<uint64_t>> Sizes() const {
    if (!options_.rows.empty()) return options_.rows;
    if (options_.quick) return std::vector<uint64_t>(kQuickRows, std::end(kQuickRows));
    ENGRAM_ASSIGN_OR_RETURN(const uint64_t free_bytes, scratch_.FreeBytes());
    const uint64_t usable = free_bytes / 10 * 9;
    const uint64_t rounded_bytes = DiskFor(kRounded, kRowBytes) - kDatabaseBytes;
    const uint64_t largest =
        usable < kDatabaseBytes ? 0 : (usable - kDatabaseBytes) / rounded_bytes * kRounded;
    std::vector<uint64_t> sizes = {kBaseRows};
    if (largest > kLargeRows) sizes.push_back(kLargeRows);
    if (largest > kBaseRows) sizes.push_back(largest);
    return sizes;
  }

  absl::StatusOr<Table> Make(const std::string& data, const TableShape& shape) {
    ENGRAM_RETURN_IF_ERROR(scratch_.CheckSpace(DiskFor(shape.TotalRows(), shape.row_bytes)));
    reporter_.Note(
        absl::StrCat("scale: loading ", shape.TotalRows(), " rows of ", shape.row_bytes, " bytes"));
    Table table;
    table.data = data;
    table.shape = shape;
    ENGRAM_ASSIGN_OR_RETURN(table.load,
                            LoadSynthetic(shape, absl::StrCat("u8[", shape.row_bytes, "]"),
                                          scratch_.File(data), reporter_));
    ENGRAM_ASSIGN_OR_RETURN(table.daemon, Daemon::Start(scratch_, 0, DepthFlags(kDepth), data));
    ENGRAM_ASSIGN_OR_RETURN(table.at_start, table.daemon->process().Memory());
    ENGRAM_RETURN_IF_ERROR(DescribeIo(*table.daemon).status());
    ENGRAM_ASSIGN_OR_RETURN(table.callers,
                            ColdCallers::Connect(*table.daemon, shape, 1, kRowsPerCall));
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<std::string> files, table.daemon->DataFiles());
    ENGRAM_ASSIGN_OR_RETURN(table.reader, RandomReader::Open(files));
    return table;
  }

  absl::Status MakeAndMeasure(const std::string& name, const TableShape& shape) {
    ENGRAM_ASSIGN_OR_RETURN(const Table table, Make("table", shape));
    ENGRAM_RETURN_IF_ERROR(Measure(name, table));
    ENGRAM_RETURN_IF_ERROR(table.daemon->process().Stop());
    return RemoveTree(scratch_.File(table.data));
  }

  // In turns with the table of 10^7 rows; the drive's own pace in files of both sizes, too.
  absl::Status Measure(const std::string& name, const Table& table) {
    Samples rows, base_rows, drive, base_drive;
    for (int round = 0; round < rounds_; ++round) {
      ENGRAM_RETURN_IF_ERROR(LookUp(table, rows));
      ENGRAM_RETURN_IF_ERROR(LookUp(base_, base_rows));
      ENGRAM_RETURN_IF_ERROR(ReadDrive(table, drive));
      ENGRAM_RETURN_IF_ERROR(ReadDrive(base_, base_drive));
    }
    ENGRAM_ASSIGN_OR_RETURN(const MemoryUse memory, table.daemon->process().Memory());
    const auto nanos = [](const Samples& samples) { return 1e9 / samples.MedianOf(&Sample::rate); };
    Result result{.name = name,
                  .value = nanos(rows),
                  .unit = "ns",
                  .baseline = nanos(base_rows),
                  .details = {}};
    result.details = {{"better", std::string("lower")},
                      {"what", std::string("a cold row; uniform ids, DRAM tier 0")},
                      {"baseline_is", absl::StrCat("a table of ", base_rows_, " rows, in turns")},
                      {"drive_ns_a_read", nanos(drive)},
                      {"baseline_drive_ns_a_read", nanos(base_drive)},
                      // A drive (or what is before it) need not be alike over its whole width.
                      {"ratio_to_drive", nanos(rows) / nanos(drive)},
                      {"baseline_ratio_to_drive", nanos(base_rows) / nanos(base_drive)}};
    Describe(table, memory, result);
    AddSamples(rows, drive, result);
    reporter_.Print(result);
    return absl::OkStatus();
  }

  absl::Status LookUp(const Table& table, Samples& samples) {
    ENGRAM_ASSIGN_OR_RETURN(const Sample sample,
                            table.callers->Round(round_seconds_, seed_++, scratch_.path()));
    samples.all.push_back(sample);
    return absl::OkStatus();
  }

  absl::Status ReadDrive(const Table& table, Samples& samples) {
    ENGRAM_ASSIGN_OR_RETURN(
        const Sample sample,
        ReadRound(*table.reader, kDepth, round_seconds_ / 3, seed_++, scratch_.path()));
    samples.all.push_back(sample);
    return absl::OkStatus();
  }

  void Describe(const Table& table, const MemoryUse& memory, Result& result) const {
    const double rows = static_cast<double>(table.shape.TotalRows());
    const double bytes = static_cast<double>(table.shape.Bytes());
    const auto a_row = [&](int64_t now, const MemoryUse& without) {
      return static_cast<double>(now - without.now) / rows;
    };
    const std::vector<std::pair<std::string, Detail>> details = {
        {"rows", static_cast<int64_t>(table.shape.TotalRows())},
        {"row_bytes", int64_t{table.shape.row_bytes}},
        {"table_bytes", static_cast<int64_t>(table.shape.Bytes())},
        {"disk_bytes_per_row_byte", static_cast<double>(table.load.disk_bytes) / bytes},
        {"memory_bytes_per_row_at_start", a_row(table.at_start.now, empty_)},
        {"memory_bytes_per_row_after_lookups", a_row(memory.now, tiny_)},
        {"rss_bytes_at_start", table.at_start.now},
        {"rss_bytes_after_lookups", memory.now},
        {"empty_daemon_rss_bytes_at_start", empty_.now},
        {"tiny_table_rss_bytes_after_lookups", tiny_.now},
        {"start_seconds", table.daemon->start_seconds()},
        {"load_seconds", table.load.seconds},
        {"load_bytes_per_s", bytes / table.load.seconds},
        {"load_peak_rss_bytes", table.load.peak_memory},
        {"depth", int64_t{kDepth}},
        {"rows_per_call", static_cast<int64_t>(kRowsPerCall)},
        {"rounds", int64_t{rounds_}},
        {"round_seconds", round_seconds_}};
    result.details.insert(result.details.end(), details.begin(), details.end());
    if (base_rows_ < kBaseRows) result.details.emplace_back("small", true);
    if (options_.quick) result.details.emplace_back("quick", true);
  }

  const BenchOptions& options_;
  Reporter& reporter_;
  const ScratchDirectory& scratch_;
  const int rounds_;
  const double round_seconds_;
  MemoryUse empty_;  // a daemon with no table, at its start
  MemoryUse tiny_;   // one with kTinyRows, after look-ups
  uint64_t base_rows_ = kBaseRows;
  Table base_;
  uint64_t seed_ = 20261124;
};

}  // namespace

absl::Status RunScaleSuite(const BenchOptions& options, Reporter& reporter) {
  ENGRAM_ASSIGN_OR_RETURN(const ScratchDirectory scratch, ScratchDirectory::Create(options.dir));
  return ScaleSuite(options, reporter, scratch).Run();
}

}  // namespace engram::bench
