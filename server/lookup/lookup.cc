#include "server/lookup/lookup.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {

// Ids are copied from the wire as they lie there.
static_assert(std::endian::native == std::endian::little);

Lookup::Part::Part(LayerRowIds rows_asked, std::shared_ptr<std::byte> rows_in, bool want_tiers)
    : stack(rows_asked.stack),
      ids(std::move(rows_asked.ids)),
      rows(std::move(rows_in)),
      tiers(want_tiers ? ids.size() : 0),
      batch(ids, stack->spec().row_bytes,
            absl::MakeSpan(rows.get(), ids.size() * stack->spec().row_bytes),
            absl::MakeSpan(tiers)) {}

Lookup::Lookup(std::shared_ptr<const OpenTable> table, const LookupQuery& query)
    : table_(std::move(table)),
      fail_on_row_error_(query.fail_on_row_error),
      by_tokens_(query.tokens.has_value()),
      start_(std::chrono::steady_clock::now()) {}

namespace {

absl::StatusOr<std::vector<RowId>> ParseRowIds(absl::string_view bytes, const LayerSpec& layer) {
  if (bytes.size() % sizeof(RowId) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", Raw(layer.id), ": row_ids has ",
                                                   bytes.size(),
                                                   " bytes, which is no multiple of 4"));
  }
  std::vector<RowId> ids(bytes.size() / sizeof(RowId));
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), bytes.size());
  // One pass without branches finds out whether any id is bad; −1 + 1 wraps to 0, which is fine.
  bool good = true;
  for (const RowId id : ids) good &= Raw(id) < layer.rows || id == RowId::kDeadPosition;
  if (good) return ids;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (Raw(ids[i]) < layer.rows || ids[i] == RowId::kDeadPosition) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("row id ", Raw(ids[i]), " at position ", i, " of layer ", Raw(layer.id),
                     " is out of range: the layer has rows 0 to ", layer.rows - 1));
  }
  return absl::InternalError("row ids changed while they were checked");
}

// The layers of a query as stacks, ascending, each once, and within the limit together.
absl::StatusOr<std::vector<std::pair<TierStack*, absl::string_view>>> PlanLayers(
    const OpenTable& table, const LookupLimits& limits, const LookupQuery& query, RowsFor purpose) {
  if (query.layers.empty() && purpose == RowsFor::kAnswer) {
    return absl::InvalidArgumentError("the request names neither layers nor tokens");
  }
  std::vector<std::pair<TierStack*, absl::string_view>> plan;
  uint64_t answer_bytes = 0;
  for (const LayerQuery& layer : query.layers) {
    ENGRAM_ASSIGN_OR_RETURN(TierStack* const stack, FindStack(table, layer.layer));
    answer_bytes += layer.row_ids.size() / sizeof(RowId) * stack->spec().row_bytes;
    plan.emplace_back(stack, layer.row_ids);
  }
  std::sort(plan.begin(), plan.end(),
            [](const auto& a, const auto& b) { return a.first->spec().id < b.first->spec().id; });
  if (purpose == RowsFor::kPrefetch) return plan;
  for (size_t i = 1; i < plan.size(); ++i) {
    if (plan[i].first == plan[i - 1].first) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", Raw(plan[i].first->spec().id), " is named twice"));
    }
  }
  if (answer_bytes > limits.max_answer_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the answer would hold ", answer_bytes, " bytes of rows, over the limit of ",
                     limits.max_answer_bytes, ": ask for fewer rows a call or raise max_answer"));
  }
  return plan;
}

}  // namespace

absl::StatusOr<std::vector<LayerRowIds>> PlanRows(const OpenTable& table,
                                                  const LookupLimits& limits,
                                                  const LookupQuery& query, RowsFor purpose) {
  if (!query.expect_table_digest.empty() &&
      query.expect_table_digest != table.record.table_digest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "table '", query.table, "' version ", Raw(table.spec().version), " has digest ",
        table.record.table_digest, ", not ", query.expect_table_digest, " as the caller expects"));
  }
  if (query.tokens.has_value()) {
    if (!query.layers.empty()) {
      return absl::InvalidArgumentError(
          "the request names both row ids and tokens: send two requests");
    }
    return RowsOfTokens(table, *query.tokens, limits.max_answer_bytes);
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto plan, PlanLayers(table, limits, query, purpose));
  std::vector<LayerRowIds> rows;
  for (const auto& [stack, bytes] : plan) {
    ENGRAM_ASSIGN_OR_RETURN(std::vector<RowId> ids, ParseRowIds(bytes, stack->spec()));
    rows.push_back({stack, std::move(ids)});
  }
  return rows;
}

// A stream ends with the first layer that fails, and leaves the later ones unread.
bool Lookup::HasColdRows(const Part& part) {
  return !part.cold.empty() && part.batch.missing().empty();
}

absl::StatusOr<std::unique_ptr<Lookup>> Lookup::Start(const Tables& tables, BufferPool& pool,
                                                      const LookupLimits& limits,
                                                      const LookupQuery& query) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const OpenTable> table,
                          tables.Find(query.table, query.version));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<LayerRowIds> plan,
                          PlanRows(*table, limits, query, RowsFor::kAnswer));
  std::unique_ptr<Lookup> lookup(new Lookup(std::move(table), query));
  for (LayerRowIds& layer : plan) {
    const size_t size = layer.ids.size() * layer.stack->spec().row_bytes;
    std::shared_ptr<std::byte> rows = pool.Get(size);
    if (rows == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for an answer of ", size, " bytes"));
    }
    lookup->parts_.push_back(
        std::make_unique<Part>(std::move(layer), std::move(rows), query.want_tiers));
  }
  return lookup;
}

bool Lookup::ReadMemory() {
  bool complete = true;
  for (const std::unique_ptr<Part>& part : parts_) {
    // Text repeats its n-grams; callers that send ids have chosen them.
    if (by_tokens_) part->batch.SetRepeatsAside();
    part->stack->ReadMemory(part->batch);
    part->cold = part->batch.missing();
    if (part->cold.empty()) part->batch.FillRepeats();
    complete = complete && part->cold.empty();
  }
  return complete;
}

void Lookup::ReadStorage(ReadPriority priority) {
  std::vector<TierStack::Request> rest;
  for (const std::unique_ptr<Part>& part : parts_) rest.push_back({part->stack, &part->batch});
  TierStack::ReadRest(rest, priority);
  for (const std::unique_ptr<Part>& part : parts_) part->batch.FillRepeats();
}

void Lookup::SetRepeatsAside() {
  for (const std::unique_ptr<Part>& part : parts_) part->batch.SetRepeatsAside();
}

uint64_t Lookup::NumberPlans() {
  uint64_t rows = 0;
  for (Plan& plan : plans_) {
    plan.first = rows;
    plan.left = plan.positions.size();
    rows += plan.left;
  }
  return rows;
}

uint64_t Lookup::BeginGather() {
  MutexLock lock(mutex_);
  plans_.assign(parts_.size(), {});
  for (size_t i = 0; i < parts_.size(); ++i) plans_[i].positions = parts_[i]->batch.missing();
  return NumberPlans();
}

std::vector<Lookup::Slice> Lookup::SlicesOf(uint64_t first, uint64_t rows) {
  MutexLock lock(mutex_);
  std::vector<Slice> slices;
  for (size_t i = 0; i < plans_.size(); ++i) {
    const Plan& plan = plans_[i];
    const uint64_t begin = std::max(first, plan.first);
    const uint64_t end = std::min(first + rows, plan.first + plan.positions.size());
    if (begin >= end) continue;
    const auto from = static_cast<uint32_t>(begin - plan.first);
    const auto to = static_cast<uint32_t>(end - plan.first);
    std::vector<uint32_t> positions(plan.positions.begin() + from, plan.positions.begin() + to);
    slices.push_back({i, from, to, RowBatch(parts_[i]->batch, std::move(positions))});
  }
  return slices;
}

void Lookup::GatherPiece(uint64_t first, uint64_t rows) {
  std::vector<Slice> slices = SlicesOf(first, rows);
  for (Slice& slice : slices) parts_[slice.part]->stack->ReadMemory(slice.batch);
  MutexLock lock(mutex_);
  for (const Slice& slice : slices) {
    Part& part = *parts_[slice.part];
    const std::vector<uint32_t>& missing = slice.batch.missing();
    part.cold.insert(part.cold.end(), missing.begin(), missing.end());
    part.batch.Absorb(slice.batch);
  }
}

bool Lookup::EndGather() {
  bool complete = true;
  for (const std::unique_ptr<Part>& part : parts_) {
    std::sort(part->cold.begin(), part->cold.end());
    part->batch.missing() = part->cold;
    if (part->cold.empty()) part->batch.FillRepeats();
    complete = complete && part->cold.empty();
  }
  return complete;
}

uint64_t Lookup::BeginRead() {
  MutexLock lock(mutex_);
  plans_.assign(parts_.size(), {});
  for (size_t i = 0; i < parts_.size(); ++i) {
    const std::vector<RowId>& ids = parts_[i]->ids;
    plans_[i].positions = parts_[i]->batch.missing();
    std::sort(plans_[i].positions.begin(), plans_[i].positions.end(),
              [&ids](uint32_t a, uint32_t b) { return ids[a] < ids[b]; });
  }
  return NumberPlans();
}

void Lookup::ReadPiece(uint64_t first, uint64_t rows, ReadPriority priority, bool offer) {
  std::vector<Slice> slices = SlicesOf(first, rows);
  std::vector<std::vector<uint32_t>> positions;
  std::vector<TierStack::Request> rest;
  for (Slice& slice : slices) {
    if (offer) positions.push_back(slice.batch.missing());
    rest.push_back({parts_[slice.part]->stack, &slice.batch});
  }
  TierStack::ReadRest(rest, priority);
  if (offer) {
    for (size_t i = 0; i < slices.size(); ++i) rest[i].stack->Offer(slices[i].batch, positions[i]);
  }
  MutexLock lock(mutex_);
  for (const Slice& slice : slices) {
    Part& part = *parts_[slice.part];
    Plan& plan = plans_[slice.part];
    part.batch.Absorb(slice.batch);
    plan.read.emplace_back(slice.begin, slice.end);
    plan.left -= slice.end - slice.begin;
    if (plan.left > 0) continue;
    part.batch.missing().clear();
    part.batch.FillRepeats();
  }
}

bool Lookup::IsWhole(size_t part) const {
  MutexLock lock(mutex_);
  return plans_[part].left == 0;
}

void Lookup::EndRead() {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < plans_.size(); ++i) {
    Plan& plan = plans_[i];
    if (plan.left == 0) continue;
    std::vector<uint32_t>& missing = parts_[i]->batch.missing();
    missing.clear();
    std::sort(plan.read.begin(), plan.read.end());
    plan.read.emplace_back(plan.positions.size(), plan.positions.size());
    uint32_t at = 0;
    for (const auto& [begin, end] : plan.read) {
      missing.insert(missing.end(), plan.positions.begin() + at, plan.positions.begin() + begin);
      at = end;
    }
    std::sort(missing.begin(), missing.end());
  }
}

void Lookup::Abandon() {
  TableProbe& probe = *table_->probe;
  probe.lookups.fetch_add(1, std::memory_order_relaxed);
  probe.failed_lookups.fetch_add(1, std::memory_order_relaxed);
}

absl::Status Lookup::Finish() {
  absl::Status status;
  for (const std::unique_ptr<Part>& part : parts_) {
    part->stack->Count(part->batch);
    if (!fail_on_row_error_ || part->batch.failures().empty() || !status.ok()) continue;
    const RowFailure& failure = part->batch.failures().front();
    status =
        absl::Status(failure.status.code(),
                     absl::StrCat("row ", Raw(part->ids[failure.position]), " of layer ",
                                  Raw(part->stack->spec().id), ": ", failure.status.message()));
  }
  TableProbe& probe = *table_->probe;
  probe.lookups.fetch_add(1, std::memory_order_relaxed);
  if (!status.ok()) probe.failed_lookups.fetch_add(1, std::memory_order_relaxed);
  probe.lookup_seconds.Observe(std::chrono::steady_clock::now() - start_);
  return status;
}

void Lookup::Warm() {
  for (const std::unique_ptr<Part>& part : parts_) {
    if (HasColdRows(*part)) part->stack->Offer(part->batch, part->cold);
  }
}

bool Lookup::CanWarm() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const std::unique_ptr<Part>& part) {
    return HasColdRows(*part) && part->stack->HasDram();
  });
}

size_t Lookup::cold_rows() const {
  size_t count = 0;
  for (const std::unique_ptr<Part>& part : parts_) count += part->cold.size();
  return count;
}

size_t Lookup::row_count() const {
  size_t count = 0;
  for (const std::unique_ptr<Part>& part : parts_) count += part->ids.size();
  return count;
}

}  // namespace engram
