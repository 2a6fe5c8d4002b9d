#include "server/prefetcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// Rows read in one go: bounds the memory of a task and lets look-ups in between.
constexpr size_t kBlockRows = 4096;

}  // namespace

Prefetcher::Prefetcher(const Tables* tables, int threads, size_t max_queued)
    : tables_(tables), executor_(threads, max_queued) {}

absl::StatusOr<Prefetcher::Result> Prefetcher::Prefetch(absl::string_view name, VersionId version,
                                                        const std::vector<LayerQuery>& layers) {
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<const OpenTable> table, tables_->Find(name, version));
  std::vector<std::pair<TierStack*, std::vector<RowId>>> work;
  for (const LayerQuery& layer : layers) {
    TierStack* stack = table->FindLayer(layer.layer);
    if (stack == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("table '", name, "' has no layer ", Raw(layer.layer)));
    }
    ENGRAM_ASSIGN_OR_RETURN(std::vector<RowId> ids, ParseRowIds(layer.row_ids, stack->spec()));
    work.emplace_back(stack, std::move(ids));
  }
  Result result;
  for (auto& [stack, ids] : work) {
    const size_t asked = ids.size();
    if (!stack->HasDram()) {
      result.skipped += asked;
      continue;
    }
    std::erase_if(ids, [stack = stack](RowId id) { return id == kZeroRow || stack->InMemory(id); });
    const size_t cold = ids.size();
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    const bool queued =
        ids.empty() || executor_.TrySubmit([table, stack = stack, ids = std::move(ids)] {
          Fill(*table, *stack, ids);
        });
    result.accepted += queued ? asked : asked - cold;
    result.skipped += queued ? 0 : cold;
  }
  table->probe->skipped_prefetch_rows.fetch_add(result.skipped, std::memory_order_relaxed);
  return result;
}

void Prefetcher::Fill(const OpenTable& table, TierStack& stack, const std::vector<RowId>& ids) {
  for (size_t first = 0; first < ids.size(); first += kBlockRows) {
    // A row that cannot be read is left to the look-up, which reports it to somebody.
    const uint64_t offered = stack.Fill(absl::MakeConstSpan(ids).subspan(first, kBlockRows));
    table.probe->prefetched_rows.fetch_add(offered, std::memory_order_relaxed);
  }
}

}  // namespace engram
