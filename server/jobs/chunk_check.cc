#include "server/jobs/chunk_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

constexpr uint64_t kBlockRows = 8192;
constexpr size_t kMaxRuns = 3;  // that are written out for each chunk

// Consecutive rows that failed for one reason.
struct Run {
  uint64_t first = 0;
  uint64_t last = 0;
  std::string why;
};

std::string RowsText(LayerId layer, uint64_t first, uint64_t last) {
  if (first == last) return absl::StrCat("layer ", Raw(layer), " row ", first);
  return absl::StrCat("layer ", Raw(layer), " rows ", first, " to ", last);
}

class Reading {
 public:
  Reading(const OpenTable& table, const Chunk& chunk)
      : stack_(*table.FindLayer(chunk.layer)), chunk_(chunk) {}

  // Reads the chunk to its end, or to where it makes no sense any more.
  absl::StatusOr<ChunkFindings> Read(const absl::Status& file,
                                     absl::FunctionRef<absl::Status(const ChunkBlock&)> each) {
    uint64_t done = 0;
    while (done < chunk_.rows) {
      const uint64_t count = std::min(kBlockRows, chunk_.rows - done);
      const uint64_t failed_before = failed_rows_;
      ENGRAM_RETURN_IF_ERROR(ReadBlock(chunk_.first + done, count, each));
      done += count;
      if (!file.ok() && failed_rows_ - failed_before == count) break;
    }
    failed_rows_ += chunk_.rows - done;
    return Findings(file, chunk_.rows - done);
  }

 private:
  absl::Status ReadBlock(uint64_t first, uint64_t count,
                         absl::FunctionRef<absl::Status(const ChunkBlock&)> each) {
    const uint32_t row_bytes = stack_.spec().row_bytes;
    ids_.resize(count);
    for (uint64_t i = 0; i < count; ++i) ids_[i] = RowId{static_cast<uint32_t>(first + i)};
    rows_.resize(count * row_bytes);
    RowBatch batch(ids_, row_bytes, absl::MakeSpan(rows_));
    stack_.ReadStorage(batch);
    failed_.assign(count, false);
    for (const RowFailure& failure : batch.failures()) {
      failed_[failure.position] = true;
      AddFailure(first + failure.position, failure.status);
    }
    digest_.Update(rows_);
    return each({stack_, first, ids_, rows_, failed_});
  }

  ChunkFindings Findings(const absl::Status& file, uint64_t unread_rows) const {
    ChunkFindings findings{chunk_, digest_.Hex(), file, failed_rows_, unread_rows, {}};
    if (findings.whole()) return findings;
    const std::string all =
        RowsText(chunk_.layer, chunk_.first, chunk_.first + chunk_.rows - 1) + ": ";
    if (!findings.file.ok()) {
      findings.problems.push_back(absl::StrCat(
          all, findings.file.message(),
          failed_rows_ == 0 ? "; they can still be read; after the next start perhaps not"
                            : absl::StrCat("; ", failed_rows_, " of them cannot be read")));
    } else if (failed_rows_ == 0) {
      findings.problems.push_back(
          absl::StrCat(all, "digest ", findings.digest, " is not the stored ", chunk_.digest));
    } else {
      AddRuns(findings);
    }
    return findings;
  }

  void AddFailure(uint64_t row, const absl::Status& status) {
    ++failed_rows_;
    Run* last = runs_.empty() ? nullptr : &runs_.back();
    if (last != nullptr && last->last + 1 == row && last->why == status.message()) {
      last->last = row;
    } else if (runs_.size() < kMaxRuns) {
      runs_.push_back({row, row, std::string(status.message())});
    }
  }

  void AddRuns(ChunkFindings& findings) const {
    uint64_t reported = 0;
    for (const Run& run : runs_) {
      findings.problems.push_back(
          absl::StrCat(RowsText(chunk_.layer, run.first, run.last), ": ", run.why));
      reported += run.last - run.first + 1;
    }
    if (reported == failed_rows_) return;
    findings.problems.push_back(absl::StrCat(
        "layer ", Raw(chunk_.layer), ": ", failed_rows_ - reported, " more among rows ",
        chunk_.first, " to ", chunk_.first + chunk_.rows - 1, " cannot be read"));
  }

  TierStack& stack_;
  const Chunk& chunk_;
  Digest digest_;
  uint64_t failed_rows_ = 0;
  std::vector<Run> runs_;
  std::vector<RowId> ids_;
  std::vector<std::byte> rows_;
  std::vector<bool> failed_;
};

}  // namespace

absl::StatusOr<ChunkFindings> ReadBackChunk(
    const Store& store, const OpenTable& table, const Chunk& chunk,
    absl::FunctionRef<absl::Status(const ChunkBlock&)> each) {
  const TableSpec& spec = table.spec();
  const absl::Status file = store.CheckChunkFile(spec.name, spec.version, chunk);
  // A lost file is DataLoss. But whatever the check says, of a version that has been dropped
  // meanwhile nothing is damaged, and a reader keeps its files from going.
  if (!file.ok() && absl::IsNotFound(store.Find(spec.name, spec.version).status())) {
    return absl::NotFoundError(absl::StrCat("table '", spec.name, "' version ", Raw(spec.version),
                                            " was dropped while it was being checked"));
  }
  return Reading(table, chunk).Read(file, each);
}

}  // namespace engram
