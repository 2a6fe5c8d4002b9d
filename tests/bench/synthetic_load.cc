#include "tests/bench/synthetic_load.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/config/config.h"
#include "server/jobs/load_job.h"
#include "server/tables/tables.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/row_source.h"
#include "storage/nvme/store.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/bench_table.h"

namespace engram::bench {
namespace {

constexpr double kNoteSeconds = 30;
constexpr uint64_t kStatBlock = 512;  // stat(2): the unit of st_blocks

class SyntheticRows final : public RowSource {
 public:
  SyntheticRows(const TableShape& shape, const std::string& row_format) {
    spec_.family = "generic";
    spec_.row_format = row_format;
    spec_.checkpoint_digest =
        absl::StrCat("synthetic-", absl::StrJoin(shape.rows, "-"), "x", shape.row_bytes);
    for (size_t i = 0; i < kLayers.size(); ++i) {
      LayerSpec layer;
      layer.id = LayerId{kLayers[i]};
      layer.rows = shape.rows[i];
      layer.row_bytes = shape.row_bytes;
      spec_.layers.push_back(std::move(layer));
    }
  }

  const TableSpec& spec() const override { return spec_; }
  const TokenMap* token_map() const override { return nullptr; }

  absl::Status ReadRows(LayerId layer, uint64_t first, uint64_t count,
                        absl::Span<std::byte> out) const override {
    const LayerSpec* const found = spec_.FindLayer(layer);
    if (found == nullptr) return absl::NotFoundError(absl::StrCat("no layer ", Raw(layer)));
    if (first > found->rows || count > found->rows - first) {
      return absl::OutOfRangeError(absl::StrCat("rows ", first, " + ", count, " of ", found->rows));
    }
    if (out.size() != count * found->row_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(count, " rows in ", out.size(), " bytes"));
    }
    for (uint64_t i = 0; i < count; ++i) {
      ExpectedRow(Raw(layer), static_cast<uint32_t>(first + i),
                  out.subspan(i * found->row_bytes, found->row_bytes));
    }
    return absl::OkStatus();
  }

 private:
  TableSpec spec_;
};

absl::StatusOr<uint64_t> DiskBytes(const std::string& directory) {
  uint64_t blocks = 0;
  std::error_code error;
  auto entry = std::filesystem::recursive_directory_iterator(directory, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(error)) {
    struct stat info {};
    if (::lstat(entry->path().c_str(), &info) == 0) blocks += static_cast<uint64_t>(info.st_blocks);
  }
  if (!error) return blocks * kStatBlock;
  return absl::UnavailableError(absl::StrCat("cannot list ", directory, ": ", error.message()));
}

// Says now and then how far a long load is; false once it is interrupted.
class Progress {
 public:
  explicit Progress(Reporter& reporter) : reporter_(reporter) {}

  bool operator()(const LoadStatus& status) {
    if (SecondsSince(last_note_) >= kNoteSeconds) {
      last_note_ = Clock::now();
      const double gb = static_cast<double>(status.bytes_done) / 1e9;
      reporter_.Note(absl::StrFormat("loading: %d of %d rows, %.1f GB, %.2f GB/s", status.rows_done,
                                     status.rows_total, gb, gb / SecondsSince(start_)));
    }
    return !Interrupted();
  }

 private:
  Reporter& reporter_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_note_ = start_;
};

}  // namespace

TableShape ShapeOf(uint64_t rows, uint32_t row_bytes) {
  TableShape shape;
  shape.row_bytes = row_bytes;
  for (size_t i = 0; i < kLayers.size(); ++i) {
    shape.rows[i] = rows / kLayers.size() + (i < rows % kLayers.size() ? 1 : 0);
  }
  return shape;
}

absl::StatusOr<LoadOutcome> LoadSynthetic(const TableShape& shape, const std::string& row_format,
                                          const std::string& data_dir, Reporter& reporter) {
  const Config defaults;
  ENGRAM_RETURN_IF_ERROR(ResetPeakMemory());
  LoadOutcome outcome;
  {
    ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Store> store,
                            Store::Open({.directory = data_dir,
                                         .read_threads = defaults.read_threads,
                                         .read_depth = defaults.nvme_depth,
                                         .use_io_uring = defaults.io_uring,
                                         .use_direct_io = defaults.direct_io}));
    ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<Tables> tables, Tables::Open(store.get(), {}));
    LoadParameters parameters;
    parameters.table = kTableName;
    parameters.checkpoint = "a synthetic source";
    parameters.threads = defaults.load_threads;
    const std::atomic<bool> cancelled{false};
    Progress progress(reporter);
    const Clock::time_point start = Clock::now();
    const absl::StatusOr<LoadResult> loaded =
        RunLoadFrom(SyntheticRows(shape, row_format), *tables, parameters, cancelled,
                    [&](const LoadStatus& status) { return progress(status); });
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    ENGRAM_RETURN_IF_ERROR(loaded.status());
    outcome.seconds = SecondsSince(start);
  }
  ENGRAM_ASSIGN_OR_RETURN(const MemoryUse memory, ReadMemoryUse(::getpid()));
  outcome.peak_memory = memory.peak;
  ENGRAM_ASSIGN_OR_RETURN(outcome.disk_bytes, DiskBytes(data_dir + "/db"));
  return outcome;
}

}  // namespace engram::bench
