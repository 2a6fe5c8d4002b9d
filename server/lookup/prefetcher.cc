#include "server/lookup/prefetcher.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "storage/base/status_macros.h"

namespace engram {
namespace {

// To look for more rows than this in DRAM and to sort them takes milliseconds: not on the thread
// that took the call.
constexpr size_t kInlineRows = 8192;

void KeepEachOnce(std::vector<RowId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

}  // namespace

// Rows of one layer, on their way to DRAM.
class Prefetcher::Job final : public Dispatcher::Job, public std::enable_shared_from_this<Job> {
 public:
  Job(std::shared_ptr<Shared> shared, std::shared_ptr<const OpenTable> table, TierStack* stack,
      std::vector<RowId> ids)
      : shared_(std::move(shared)), table_(std::move(table)), stack_(*stack), ids_(std::move(ids)) {
    rows_ = ids_.size();
  }
  ~Job() override { StopWaiting(); }

  Dispatcher::Order First(Dispatcher& dispatcher, ClientId client, Urgency urgency) {
    dispatcher_ = &dispatcher;
    sorted_ = ids_.size() <= kInlineRows;  // by Prefetch, or not worth it
    order_ = {
        .client = client, .urgency = urgency, .units = sorted_ ? ids_.size() : 1, .counts = false};
    return order_;
  }

  void Run(uint64_t first, uint64_t units) override {
    StopWaiting();
    if (!sorted_) {
      KeepEachOnce(ids_);
      stack_.KeepCold(ids_);
      return;
    }
    // A row that cannot be read is left to the look-up, which has a caller to report it to.
    stack_.Fill(absl::MakeConstSpan(ids_).subspan(first, units));
  }
  bool IsGone() const override { return shared_->stopped.load(std::memory_order_relaxed); }
  void Done() override {
    if (sorted_ || ids_.empty() || IsGone()) return;
    sorted_ = true;
    order_.units = ids_.size();
    dispatcher_->Continue(order_, shared_from_this());
  }

 private:
  void StopWaiting() {
    if (!waits_.exchange(false, std::memory_order_relaxed)) return;
    shared_->rows.fetch_sub(rows_, std::memory_order_relaxed);
    shared_->jobs.fetch_sub(1, std::memory_order_relaxed);
  }

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<const OpenTable> table_;  // keeps the stack alive
  TierStack& stack_;
  std::vector<RowId> ids_;
  uint64_t rows_ = 0;
  std::atomic<bool> waits_{true};
  // Between the pieces and Done the dispatcher's lock orders these.
  Dispatcher* dispatcher_ = nullptr;
  Dispatcher::Order order_;
  bool sorted_ = false;
};

Prefetcher::Prefetcher(const Tables* tables, Dispatcher* dispatcher, size_t max_queued,
                       LookupLimits limits, uint64_t max_queued_rows)
    : tables_(tables),
      dispatcher_(dispatcher),
      limits_(limits),
      max_queued_(max_queued),
      max_queued_rows_(max_queued_rows) {}

absl::StatusOr<Prefetcher::Result> Prefetcher::Prefetch(const LookupQuery& query, ClientId client,
                                                        Urgency urgency) {
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
    const bool taken =
        cold == 0 || (stack->HasDram() && Enqueue(table, stack, std::move(ids), client, urgency));
    result.accepted += taken ? asked : asked - cold;
    result.skipped += taken ? 0 : cold;
  }
  table->probe->skipped_prefetch_rows.fetch_add(result.skipped, std::memory_order_relaxed);
  return result;
}

bool Prefetcher::Enqueue(std::shared_ptr<const OpenTable> table, TierStack* stack,
                         std::vector<RowId> ids, ClientId client, Urgency urgency) {
  if (shared_->stopped.load(std::memory_order_relaxed)) return false;
  if (ids.empty()) return true;
  const uint64_t rows = shared_->rows.fetch_add(ids.size(), std::memory_order_relaxed) + ids.size();
  const size_t jobs = shared_->jobs.fetch_add(1, std::memory_order_relaxed) + 1;
  // Gives both back when it begins, or goes.
  const auto job = std::make_shared<Job>(shared_, std::move(table), stack, std::move(ids));
  if (rows > max_queued_rows_ || jobs > max_queued_) return false;
  return dispatcher_->Submit(job->First(*dispatcher_, client, urgency), job);
}

void Prefetcher::Stop() { shared_->stopped.store(true, std::memory_order_relaxed); }

}  // namespace engram
