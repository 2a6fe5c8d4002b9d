#include "server/jobs/repair_job.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/jobs/chunk_check.h"
#include "server/jobs/verify_job.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/row_source.h"

namespace engram {
namespace {

std::string Title(const TableSpec& spec) {
  return absl::StrCat("table '", spec.name, "' version ", Raw(spec.version));
}

// The version asked for; else of those that hold this checkpoint the active one, a published one,
// an unfinished one. A version that is asked for may have been loaded from files with other times,
// which are part of a checkpoint's digest: every chunk of it has a digest of its own.
absl::StatusOr<TableRecord> ChooseVersion(const Store& store, const LoadParameters& parameters,
                                          const std::string& digest) {
  if (parameters.version != kActiveVersion) {
    absl::StatusOr<TableRecord> record = store.Find(parameters.table, parameters.version);
    if (!absl::IsNotFound(record.status())) return record;
    return absl::NotFoundError(absl::StrCat("there is no table '", parameters.table, "' version ",
                                            Raw(parameters.version),
                                            " to repair: `engramctl list` shows those there are"));
  }
  std::optional<TableRecord> chosen;
  std::vector<std::string> others;
  const auto rank = [](const TableRecord& record) {
    return record.active ? 2 : record.state == TableState::kPublished ? 1 : 0;
  };
  for (const TableRecord& record : store.List()) {
    if (record.spec.name != parameters.table) continue;
    if (record.spec.checkpoint_digest != digest) {
      others.push_back(absl::StrCat("version ", Raw(record.spec.version), " holds ",
                                    record.spec.checkpoint_digest));
    } else if (!chosen.has_value() || rank(record) > rank(*chosen)) {
      chosen = record;
    }
  }
  if (chosen.has_value()) return *std::move(chosen);
  if (others.empty()) {
    return absl::NotFoundError(absl::StrCat("there is no table '", parameters.table,
                                            "' to repair: load it without --repair"));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "no version of table '", parameters.table, "' holds this checkpoint: its digest is ", digest,
      ", ", absl::StrJoin(others, ", "),
      "; give the checkpoint that was loaded, or, for a copy of it, the version with --version"));
}

class Repairer {
 public:
  Repairer(Store& store, const OpenTable& table, const RowSource& source,
           const std::atomic<bool>& cancelled,
           const std::function<bool(const LoadStatus&)>& progress)
      : store_(store), table_(table), source_(source), cancelled_(cancelled), progress_(progress) {}

  absl::StatusOr<RepairResult> Run() {
    ENGRAM_ASSIGN_OR_RETURN(const std::vector<Chunk> damaged, FindDamaged());
    Begin(LoadPhase::kRepair, damaged);
    // Of several the last one first, as Store::RepairChunk asks for.
    for (auto chunk = damaged.rbegin(); chunk != damaged.rend(); ++chunk) {
      ENGRAM_RETURN_IF_ERROR(Explain(RepairOne(*chunk)));
    }
    RepairResult result;
    result.counts = std::move(counts_);
    result.load.record = table_.record;
    result.load.status = status_;
    result.load.already_loaded = true;
    return result;
  }

 private:
  void Begin(LoadPhase phase, const std::vector<Chunk>& chunks) {
    status_ = LoadStatus{};
    status_.phase = phase;
    for (const Chunk& chunk : chunks) {
      status_.rows_total += chunk.rows;
      status_.bytes_total += chunk.rows * RowBytes(chunk.layer);
    }
  }
  uint64_t RowBytes(LayerId layer) const { return table_.FindLayer(layer)->spec().row_bytes; }

  // Counts rows done; Cancelled when the caller has cancelled.
  absl::Status Advance(uint64_t rows, uint64_t row_bytes) {
    status_.rows_done += rows;
    status_.bytes_done += rows * row_bytes;
    if (!cancelled_.load() && progress_(status_)) return absl::OkStatus();
    return absl::CancelledError("the repair was stopped; the same command does the rest");
  }

  absl::StatusOr<std::vector<Chunk>> FindDamaged() {
    const std::vector<Chunk>& chunks = table_.record.chunks;
    Begin(LoadPhase::kVerify, chunks);
    counts_.chunks = chunks.size();
    std::vector<Chunk> damaged;
    for (const Chunk& chunk : chunks) {
      ENGRAM_ASSIGN_OR_RETURN(const ChunkFindings findings,
                              ReadBackChunk(store_, table_, chunk, [&](const ChunkBlock& block) {
                                return Advance(block.ids.size(), RowBytes(chunk.layer));
                              }));
      if (findings.whole()) continue;
      ENGRAM_RETURN_IF_ERROR(Advance(findings.unread_rows, RowBytes(chunk.layer)));
      damaged.push_back(chunk);
      ++counts_.damaged_chunks;
      counts_.damaged_rows += findings.bad_rows();
      for (const std::string& problem : findings.problems) {
        ENGRAM_LOG(kWarning) << Title(table_.spec()) << " is to be repaired: " << problem;
        if (counts_.problems.size() < kMaxProblems) counts_.problems.push_back(problem);
      }
    }
    return damaged;
  }

  absl::Status RepairOne(const Chunk& chunk) {
    const TableSpec& spec = table_.spec();
    const auto read = [&](LayerId layer, uint64_t first, uint64_t rows,
                          absl::Span<std::byte> out) -> absl::Status {
      ENGRAM_RETURN_IF_ERROR(source_.ReadRows(layer, first, rows, out));
      return Advance(rows, RowBytes(layer));
    };
    std::atomic<uint64_t> written{0};
    ENGRAM_RETURN_IF_ERROR(
        store_.RepairChunk(spec.name, spec.version, chunk, read, cancelled_, written));
    ENGRAM_ASSIGN_OR_RETURN(
        const ChunkFindings findings,
        ReadBackChunk(store_, table_, chunk, [](const ChunkBlock&) { return absl::OkStatus(); }));
    if (!findings.whole()) {
      return absl::DataLossError(
          absl::StrCat("what was just written reads back damaged; look at the drive: ",
                       findings.problems.front()));
    }
    ++counts_.rewritten_chunks;
    counts_.rewritten_rows += chunk.rows;
    return absl::OkStatus();
  }

  absl::Status Explain(const absl::Status& status) const {
    if (status.ok() || counts_.rewritten_chunks == 0) return status;
    return absl::Status(status.code(),
                        absl::StrCat(status.message(), " (", counts_.rewritten_chunks, " of ",
                                     counts_.damaged_chunks, " damaged chunks are repaired)"));
  }

  Store& store_;
  const OpenTable& table_;
  const RowSource& source_;
  const std::atomic<bool>& cancelled_;
  const std::function<bool(const LoadStatus&)>& progress_;
  LoadStatus status_;
  RepairCounts counts_;
};

}  // namespace

absl::StatusOr<RepairResult> RunRepair(Tables& tables, const LoadParameters& parameters,
                                       const std::atomic<bool>& cancelled,
                                       const std::function<bool(const LoadStatus&)>& progress) {
  ENGRAM_RETURN_IF_ERROR(CheckTableName(parameters.table));
  ENGRAM_ASSIGN_OR_RETURN(const std::unique_ptr<RowSource> source,
                          OpenCheckpoint({.directory = parameters.checkpoint,
                                          .model = parameters.model,
                                          .tensors = parameters.tensors,
                                          .allow_unverified = parameters.allow_unverified}));
  ENGRAM_ASSIGN_OR_RETURN(
      const TableRecord record,
      ChooseVersion(*tables.store(), parameters, source->spec().checkpoint_digest));
  if (record.state == TableState::kLoading) {
    LoadParameters same = parameters;
    same.version = record.spec.version;
    RepairResult result;
    result.finished_load = true;
    ENGRAM_ASSIGN_OR_RETURN(result.load, RunLoadFrom(*source, tables, same, cancelled, progress));
    return result;
  }
  ENGRAM_RETURN_IF_ERROR(CheckSameShape(record.spec, source->spec()));
  ENGRAM_ASSIGN_OR_RETURN(const std::shared_ptr<const OpenTable> table,
                          tables.Find(record.spec.name, record.spec.version));
  ENGRAM_LOG(kInfo) << "repairing " << Title(record.spec) << " from " << parameters.checkpoint;
  ENGRAM_ASSIGN_OR_RETURN(RepairResult result,
                          Repairer(*tables.store(), *table, *source, cancelled, progress).Run());
  result.load.record = record;  // says what is active now
  ENGRAM_LOG(kInfo) << Title(record.spec) << ": " << result.counts.damaged_chunks << " of "
                    << result.counts.chunks << " chunks were damaged and are repaired";
  return result;
}

}  // namespace engram
