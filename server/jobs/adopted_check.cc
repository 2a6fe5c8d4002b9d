#include "server/jobs/adopted_check.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/table/row_batch.h"

namespace engram {
namespace {

// Rows compared in one batch: half a mebibyte of a table of 264-byte rows.
constexpr size_t kBatchRows = 2048;

// Ids looked for in DRAM before the cache is let go of, a millisecond or two of work.
constexpr uint64_t kScanIds = 16384;

using Clock = std::chrono::steady_clock;

std::string Title(const OpenTable& table, const TierStack& stack) {
  return absl::StrCat("table '", table.spec().name, "' version ", Raw(table.spec().version),
                      " layer ", Raw(stack.spec().id));
}

// The next rows that DRAM holds, from `next` on, which moves behind all that was looked at. False:
// there is no cache that took rows over.
bool FindHeld(const TierStack& stack, uint64_t& next, std::vector<RowId>& held) {
  const std::shared_ptr<const RowCache> cache = stack.SharedDram();
  if (cache == nullptr || cache->taken_over_rows() == 0) return false;
  const uint64_t end = std::min(stack.spec().rows, next + kScanIds);
  for (; next < end && held.size() < kBatchRows; ++next) {
    const RowId id{static_cast<uint32_t>(next)};
    if (cache->Contains(id)) held.push_back(id);
  }
  return true;
}

}  // namespace

AdoptedCheck::AdoptedCheck(Tables* tables)
    : tables_(tables),
      thread_([this, stack_ids = tables->StacksWithAdoptedRows()] { Run(stack_ids); }) {}

AdoptedCheck::~AdoptedCheck() { Stop(); }

void AdoptedCheck::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void AdoptedCheck::WaitUntilDone() {
  MutexLock lock(mutex_);
  while (!done_ && !stop_) changed_.Wait(mutex_);
}

bool AdoptedCheck::stopped() {
  MutexLock lock(mutex_);
  return stop_;
}

void AdoptedCheck::Run(const std::vector<uint32_t>& stack_ids) {
  for (const uint32_t stack_id : stack_ids) CheckLayer(stack_id);
  {
    MutexLock lock(mutex_);
    done_ = true;
  }
  changed_.NotifyAll();
}

void AdoptedCheck::CheckLayer(uint32_t stack_id) {
  uint64_t next = 0;
  uint64_t checked = 0;
  while (true) {
    const Clock::time_point begin = Clock::now();
    Outcome outcome;
    {
      const Tables::SharedStack shared = tables_->FindStack(stack_id);
      if (shared.stack == nullptr) return;  // dropped
      outcome = CheckBatch(*shared.stack, next);
      checked += outcome.rows;
      if (outcome.mismatch.has_value()) {
        ENGRAM_LOG(kError) << Title(*shared.table, *shared.stack) << ": row "
                           << Raw(*outcome.mismatch)
                           << " in DRAM, taken over from an earlier daemon, differs from NVMe; the "
                              "layer's DRAM tier is given up and begins anew";
        break;
      }
      if (outcome.over) {
        ENGRAM_LOG(kInfo) << Title(*shared.table, *shared.stack) << ": " << checked
                          << " rows in DRAM, taken over from an earlier daemon, are as on NVMe";
        return;
      }
    }
    // Rows that are written anew, or not kept at all, need no check; those that only moved, to a
    // cache of another size, do: of these the ones before `next` have been compared.
    if (outcome.no_cache && !tables_->HasAdoptedRows(stack_id)) return;
    MutexLock lock(mutex_);
    const Clock::time_point resume = Clock::now() + (Clock::now() - begin);
    for (auto now = Clock::now(); !stop_ && now < resume; now = Clock::now()) {
      changed_.WaitFor(mutex_, resume - now);
    }
    if (stop_) return;
  }
  // The table is no longer held: a drop would wait for it.
  tables_->RenewDram(stack_id);
}

AdoptedCheck::Outcome AdoptedCheck::CheckBatch(TierStack& stack, uint64_t& next) {
  Outcome outcome;
  std::vector<RowId> ids;
  const uint64_t begin = next;
  while (ids.size() < kBatchRows && next < stack.spec().rows) {
    if (stopped()) return outcome;
    if (FindHeld(stack, next, ids)) continue;
    next = begin;
    outcome.no_cache = true;
    return outcome;
  }
  outcome.over = next == stack.spec().rows;
  if (ids.empty()) return outcome;
  const size_t row_bytes = stack.spec().row_bytes;
  std::vector<std::byte> rows(ids.size() * row_bytes);
  RowBatch batch(ids, stack.spec().row_bytes, absl::MakeSpan(rows));
  stack.ReadStorage(batch);
  std::vector<bool> failed(ids.size());
  for (const RowFailure& failure : batch.failures()) failed[failure.position] = true;
  std::vector<std::byte> held(row_bytes);
  for (uint32_t i = 0; i < ids.size(); ++i) {
    // Rows that have been evicted meanwhile are no matter any more.
    if (failed[i] || !stack.PeekDram(ids[i], absl::MakeSpan(held))) continue;
    ++outcome.rows;
    if (std::memcmp(held.data(), batch.row(i), row_bytes) == 0) continue;
    outcome.mismatch = ids[i];
    break;
  }
  stack.CountChecked(outcome.rows, outcome.mismatch.has_value() ? 1 : 0);
  return outcome;
}

}  // namespace engram
