#include "server/jobs/verify_job.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/jobs/chunk_check.h"
#include "server/placement/hbm_cache.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/row_source.h"

namespace engram {
namespace {

class Verifier {
 public:
  Verifier(const Tables& tables, const OpenTable& table, const RowSource* source,
           const HbmCache* hbm)
      : store_(*tables.store()), hbm_(hbm), table_(table), source_(source) {
    status_.rows_total = table.spec().rows();
    status_.bytes_total = table.spec().bytes();
  }

  VerifyStatus& status() { return status_; }

  // Compares one chunk, block by block. Cancelled when `proceed` says no.
  absl::Status Check(const Chunk& chunk, const std::function<bool()>& proceed) {
    const uint64_t bad_before = status_.bad_rows;
    const auto check = [&](const ChunkBlock& block) -> absl::Status {
      CompareWithDram(block);
      CompareWithHbm(block);
      if (source_ != nullptr) ENGRAM_RETURN_IF_ERROR(CompareWithSource(block));
      status_.rows_done += block.ids.size();
      status_.bytes_done += block.rows.size();
      if (!proceed()) return absl::CancelledError("the check was stopped");
      return absl::OkStatus();
    };
    ENGRAM_ASSIGN_OR_RETURN(const ChunkFindings findings,
                            ReadBackChunk(store_, table_, chunk, check));
    status_.rows_done += findings.unread_rows;
    status_.bytes_done += findings.unread_rows * table_.FindLayer(chunk.layer)->spec().row_bytes;
    // Rows that were found to differ from another copy make the digest differ; they count once.
    const bool counted =
        findings.failed_rows == 0 && findings.file.ok() && status_.bad_rows > bad_before;
    if (!counted) status_.bad_rows += findings.bad_rows();
    for (const std::string& problem : findings.problems) Problem(problem);
    return absl::OkStatus();
  }

 private:
  void Problem(std::string text) {
    if (status_.problems.size() < kMaxProblems) status_.problems.push_back(std::move(text));
  }

  void CompareWithDram(const ChunkBlock& block) {
    const LayerSpec& layer = block.stack.spec();
    copy_.resize(layer.row_bytes);
    for (size_t i = 0; i < block.ids.size(); ++i) {
      if (block.failed[i] || !block.stack.PeekDram(block.ids[i], absl::MakeSpan(copy_))) continue;
      ++status_.dram_rows;
      if (std::memcmp(copy_.data(), &block.rows[i * layer.row_bytes], layer.row_bytes) == 0) {
        continue;
      }
      ++status_.bad_rows;
      Problem(absl::StrCat("layer ", Raw(layer.id), " row ", block.first + i,
                           ": DRAM holds other bytes than NVMe"));
    }
  }

  void CompareWithHbm(const ChunkBlock& block) {
    const LayerSpec& layer = block.stack.spec();
    in_hbm_.resize(block.rows.size());
    if (hbm_ == nullptr ||
        !hbm_->ReadHeld(block.stack.id(), block.ids, absl::MakeSpan(in_hbm_), held_in_hbm_)) {
      return;
    }
    for (size_t i = 0; i < block.ids.size(); ++i) {
      if (block.failed[i] || !held_in_hbm_[i]) continue;
      ++status_.hbm_rows;
      const size_t at = i * layer.row_bytes;
      if (std::memcmp(&in_hbm_[at], &block.rows[at], layer.row_bytes) == 0) continue;
      ++status_.bad_rows;
      Problem(absl::StrCat("layer ", Raw(layer.id), " row ", block.first + i,
                           ": HBM holds other bytes than NVMe"));
    }
  }

  absl::Status CompareWithSource(const ChunkBlock& block) {
    const LayerSpec& layer = block.stack.spec();
    expected_.resize(block.rows.size());
    ENGRAM_RETURN_IF_ERROR(
        source_->ReadRows(layer.id, block.first, block.ids.size(), absl::MakeSpan(expected_)));
    for (size_t i = 0; i < block.ids.size(); ++i) {
      const std::byte* stored = &block.rows[i * layer.row_bytes];
      const std::byte* source = &expected_[i * layer.row_bytes];
      if (block.failed[i] || std::memcmp(stored, source, layer.row_bytes) == 0) continue;
      ++status_.bad_rows;
      const auto differ = std::mismatch(stored, stored + layer.row_bytes, source);
      Problem(absl::StrCat("layer ", Raw(layer.id), " row ", block.first + i, ": byte ",
                           differ.first - stored, " is ", std::to_integer<int>(*differ.first),
                           ", in the checkpoint ", std::to_integer<int>(*differ.second)));
    }
    return absl::OkStatus();
  }

  const Store& store_;
  const HbmCache* const hbm_;
  const OpenTable& table_;
  const RowSource* const source_;
  VerifyStatus status_;
  std::vector<std::byte> expected_, copy_, in_hbm_;
  std::vector<bool> held_in_hbm_;
};

}  // namespace

absl::Status CheckSameShape(const TableSpec& table, const TableSpec& checkpoint) {
  const auto differ = [&](const auto&... what) {
    return absl::FailedPreconditionError(
        absl::StrCat("table '", table.name, "' and the checkpoint cannot be compared: ", what...));
  };
  if (table.layers.size() != checkpoint.layers.size()) {
    return differ("it has ", table.layers.size(), " layers, the checkpoint ",
                  checkpoint.layers.size());
  }
  if (table.row_format != checkpoint.row_format) {
    return differ("its rows are ", table.row_format, ", the checkpoint's ", checkpoint.row_format);
  }
  const bool hashed = table.addressing.hash != HashKind::kNone;
  for (size_t i = 0; i < table.layers.size(); ++i) {
    const LayerSpec& ours = table.layers[i];
    const LayerSpec& theirs = checkpoint.layers[i];
    const auto title = [](const LayerSpec& layer) {
      return absl::StrCat("layer ", Raw(layer.id), " of ", layer.rows, " rows of ", layer.row_bytes,
                          " bytes");
    };
    if (title(ours) != title(theirs)) {
      return differ("it has ", title(ours), ", the checkpoint ", title(theirs));
    }
    if (ours.columns != theirs.columns) {
      return differ("the columns of layer ", Raw(ours.id), " have other sizes");
    }
    if (hashed && ours.multipliers != theirs.multipliers) {
      return differ("the hash multipliers of layer ", Raw(ours.id), " are others");
    }
    if (hashed && ours.row_scale != theirs.row_scale) {
      return differ("the row scale of layer ", Raw(ours.id), " is ", ours.row_scale,
                    ", in the checkpoint ", theirs.row_scale);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<VerifyStatus> RunVerify(const Tables& tables, const VerifyParameters& parameters,
                                       const std::atomic<bool>& cancelled,
                                       const std::function<bool(const VerifyStatus&)>& progress) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const OpenTable> table,
                          tables.Find(parameters.table, parameters.version));
  std::unique_ptr<RowSource> source;
  if (!parameters.checkpoint.empty()) {
    const bool same_family = parameters.model.empty() || parameters.model == "auto";
    ENGRAM_ASSIGN_OR_RETURN(
        source, OpenCheckpoint({.directory = parameters.checkpoint,
                                .model = same_family ? table->spec().family : parameters.model,
                                .tensors = parameters.tensors,
                                .allow_unverified = parameters.allow_unverified}));
    ENGRAM_RETURN_IF_ERROR(CheckSameShape(table->spec(), source->spec()));
  }
  Verifier verifier(tables, *table, source.get(), parameters.hbm);
  for (const Chunk& chunk : table->record.chunks) {
    ENGRAM_RETURN_IF_ERROR(
        verifier.Check(chunk, [&] { return !cancelled.load() && progress(verifier.status()); }));
  }
  return verifier.status();
}

}  // namespace engram
