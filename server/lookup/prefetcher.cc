#include "server/lookup/prefetcher.h"

#include <algorithm>
#include <utility>

#include "storage/base/status_macros.h"

namespace engram {
namespace {

// Rows read in one go: bounds the memory of a task and lets look-ups in between.
constexpr size_t kBlockRows = 4096;

// To look for more rows than this in DRAM and to sort them takes milliseconds: not on the thread
// that took the call.
constexpr size_t kInlineRows = 8192;

void KeepEachOnce(std::vector<RowId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

}  // namespace

Prefetcher::Prefetcher(const Tables* tables, int threads, size_t max_queued, LookupLimits limits,
                       uint64_t max_queued_rows)
    : tables_(tables),
      limits_(limits),
      max_queued_rows_(max_queued_rows),
      executor_(threads, max_queued) {}

absl::StatusOr<Prefetcher::Result> Prefetcher::Prefetch(const LookupQuery& query) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const OpenTable> table,
                          tables_->Find(query.table, query.version));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<LayerRowIds> work,
                          PlanRows(*table, limits_, query, RowsFor::kPrefetch));
  Result result;
  for (auto& [stack, ids] : work) {
    const size_t asked = ids.size();
    size_t cold = asked;
    if (stack->HasDram() && asked <= kInlineRows) {
      stack->KeepCold(ids);
      cold = ids.size();
      KeepEachOnce(ids);
    }
    const bool taken = cold == 0 || (stack->HasDram() && Enqueue(table, stack, std::move(ids)));
    result.accepted += taken ? asked : asked - cold;
    result.skipped += taken ? 0 : cold;
  }
  table->probe->skipped_prefetch_rows.fetch_add(result.skipped, std::memory_order_relaxed);
  return result;
}

bool Prefetcher::Enqueue(std::shared_ptr<const OpenTable> table, TierStack* stack,
                         std::vector<RowId> ids) {
  if (stopped()) return false;
  const uint64_t rows = ids.size();
  // Relaxed: a bound on memory, and nothing else hangs on it.
  if (queued_rows_.fetch_add(rows, std::memory_order_relaxed) + rows > max_queued_rows_) {
    queued_rows_.fetch_sub(rows, std::memory_order_relaxed);
    return false;
  }
  auto task = [this, table = std::move(table), stack, ids = std::move(ids)]() mutable {
    queued_rows_.fetch_sub(ids.size(), std::memory_order_relaxed);
    Fill(*stack, ids);
  };
  if (executor_.TrySubmit(std::move(task))) return true;
  queued_rows_.fetch_sub(rows, std::memory_order_relaxed);
  return false;
}

void Prefetcher::Stop() { stopped_.store(true, std::memory_order_relaxed); }

void Prefetcher::Fill(TierStack& stack, std::vector<RowId>& ids) {
  if (stopped()) return;
  if (ids.size() > kInlineRows) {
    KeepEachOnce(ids);
    stack.KeepCold(ids);
  }
  for (size_t first = 0; first < ids.size() && !stopped(); first += kBlockRows) {
    // A row that cannot be read is left to the look-up, which reports it to somebody.
    stack.Fill(absl::MakeConstSpan(ids).subspan(first, kBlockRows));
  }
}

}  // namespace engram
