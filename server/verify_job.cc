#include "server/verify_job.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/row_source.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

constexpr uint64_t kBlockRows = 8192;

class Verifier {
 public:
  Verifier(const OpenTable& table, const RowSource* source) : table_(table), source_(source) {
    status_.rows_total = table.spec().rows();
    status_.bytes_total = table.spec().bytes();
  }

  VerifyStatus& status() { return status_; }

  // Compares one chunk, block by block. Cancelled when `proceed` says no.
  absl::Status Check(const Chunk& chunk, const std::function<bool()>& proceed) {
    Digest digest;
    const uint64_t bad_before = status_.bad_rows;
    for (uint64_t done = 0; done < chunk.rows; done += kBlockRows) {
      const uint64_t count = std::min(kBlockRows, chunk.rows - done);
      ENGRAM_RETURN_IF_ERROR(CheckBlock(chunk.layer, chunk.first + done, count, digest));
      if (!proceed()) return absl::CancelledError("the check was stopped");
    }
    if (digest.Hex() != chunk.digest && status_.bad_rows == bad_before) {
      status_.bad_rows += chunk.rows;
      Problem(absl::StrCat("layer ", Raw(chunk.layer), " rows ", chunk.first, " to ",
                           chunk.first + chunk.rows - 1, ": digest ", digest.Hex(),
                           " is not the stored ", chunk.digest));
    }
    return absl::OkStatus();
  }

 private:
  void Problem(std::string text) {
    if (status_.problems.size() < kMaxProblems) status_.problems.push_back(std::move(text));
  }

  absl::Status CheckBlock(LayerId layer, uint64_t first, uint64_t count, Digest& digest) {
    TierStack& stack = *table_.FindLayer(layer);
    const uint32_t row_bytes = stack.spec().row_bytes;
    ids_.resize(count);
    for (uint64_t i = 0; i < count; ++i) ids_[i] = RowId{static_cast<uint32_t>(first + i)};
    rows_.resize(count * row_bytes);
    RowBatch batch(ids_, row_bytes, absl::MakeSpan(rows_));
    stack.ReadStorage(batch);
    bad_.assign(count, false);
    for (const RowFailure& failure : batch.failures()) {
      bad_[failure.position] = true;
      ++status_.bad_rows;
      Problem(absl::StrCat("layer ", Raw(layer), " row ", first + failure.position, ": ",
                           failure.status.message()));
    }
    digest.Update(rows_);
    CompareWithDram(stack, first);
    if (source_ != nullptr) ENGRAM_RETURN_IF_ERROR(CompareWithSource(layer, first, row_bytes));
    status_.rows_done += count;
    status_.bytes_done += rows_.size();
    return absl::OkStatus();
  }

  void CompareWithDram(TierStack& stack, uint64_t first) {
    const uint32_t row_bytes = stack.spec().row_bytes;
    copy_.resize(row_bytes);
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (bad_[i] || !stack.PeekDram(ids_[i], absl::MakeSpan(copy_))) continue;
      ++status_.dram_rows;
      if (std::memcmp(copy_.data(), &rows_[i * row_bytes], row_bytes) == 0) continue;
      ++status_.bad_rows;
      Problem(absl::StrCat("layer ", Raw(stack.spec().id), " row ", first + i,
                           ": DRAM holds other bytes than NVMe"));
    }
  }

  absl::Status CompareWithSource(LayerId layer, uint64_t first, uint32_t row_bytes) {
    expected_.resize(rows_.size());
    ENGRAM_RETURN_IF_ERROR(source_->ReadRows(layer, first, ids_.size(), absl::MakeSpan(expected_)));
    for (size_t i = 0; i < ids_.size(); ++i) {
      const std::byte* stored = &rows_[i * row_bytes];
      const std::byte* source = &expected_[i * row_bytes];
      if (bad_[i] || std::memcmp(stored, source, row_bytes) == 0) continue;
      ++status_.bad_rows;
      const auto differ = std::mismatch(stored, stored + row_bytes, source);
      Problem(absl::StrCat("layer ", Raw(layer), " row ", first + i, ": byte ",
                           differ.first - stored, " is ", std::to_integer<int>(*differ.first),
                           ", in the checkpoint ", std::to_integer<int>(*differ.second)));
    }
    return absl::OkStatus();
  }

  const OpenTable& table_;
  const RowSource* const source_;
  VerifyStatus status_;
  std::vector<RowId> ids_;
  std::vector<std::byte> rows_, expected_, copy_;
  std::vector<bool> bad_;
};

// Rows can be compared if they are as many, as long, of one format and in the same columns. What a
// table of an earlier release does not say (its hash) is not asked for.
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

}  // namespace

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
  Verifier verifier(*table, source.get());
  for (const Chunk& chunk : table->record.chunks) {
    ENGRAM_RETURN_IF_ERROR(
        verifier.Check(chunk, [&] { return !cancelled.load() && progress(verifier.status()); }));
  }
  return verifier.status();
}

}  // namespace engram
