#include "server/tables/tier_stack.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"

namespace engram {

namespace {

// 0 is no stack. Relaxed: only the numbers matter.
std::atomic<uint32_t> next_stack_id{1};

}  // namespace

TierStack::TierStack(LayerSpec spec, std::unique_ptr<LayerReader> nvme, std::string hbm_note,
                     LayerProbe* probe)
    : spec_(std::move(spec)),
      id_(next_stack_id.fetch_add(1, std::memory_order_relaxed)),
      nvme_(std::move(nvme)),
      hbm_(std::move(hbm_note)),
      probe_(probe),
      dram_note_("off: only the active version of a table has DRAM") {}

std::shared_ptr<RowCache> TierStack::dram() const {
  MutexLock lock(mutex_);
  return dram_;
}

// Requires that no new pointer to the cache can be taken.
void TierStack::WaitForLastReader(const std::shared_ptr<RowCache>& cache) {
  while (cache.use_count() > 1) {
    waits_.fetch_add(1, std::memory_order_relaxed);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

void TierStack::ReadTier(Tier& tier, RowBatch& batch) {
  std::vector<uint32_t>& missing = batch.missing();
  if (missing.empty()) return;
  const size_t failures_before = batch.failures().size();
  if (batch.wants_tiers()) {
    const std::vector<uint32_t> before = missing;
    tier.Read(batch);
    batch.CountServed(tier.kind(), before, failures_before);
  } else {
    // Only the length of this span is used; tiers shorten the vector in place.
    const absl::Span<const uint32_t> before(missing.data(), missing.size());
    tier.Read(batch);
    batch.CountServed(tier.kind(), before, failures_before);
  }
}

void TierStack::ReadMemory(RowBatch& batch) {
  if (const std::shared_ptr<RowCache> cache = dram(); cache != nullptr) ReadTier(*cache, batch);
}

void TierStack::ReadStorage(RowBatch& batch) { ReadTier(*nvme_, batch); }

void TierStack::ReadNvme(absl::Span<const Request> requests, ReadPriority priority) {
  std::vector<LayerReader::Request> reads;
  std::vector<std::vector<uint32_t>> missing;
  std::vector<size_t> failures;
  for (const Request& request : requests) {
    reads.push_back({request.stack->nvme_.get(), request.batch});
    missing.push_back(request.batch->missing());
    failures.push_back(request.batch->failures().size());
  }
  if (!reads.empty()) reads.front().reader->ReadTogether(reads, priority);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].batch->CountServed(TierKind::kNvme, missing[i], failures[i]);
  }
}

TierStack::Flights TierStack::FlightsNow() const {
  MutexLock lock(flights_mutex_);
  return flights_;
}

// Waits until each of them has landed: for one block of reads at most.
void TierStack::WaitFor(const Flights& flights) {
  MutexLock lock(flights_mutex_);
  for (const std::shared_ptr<Flight>& flight : flights) {
    while (!flight->landed) {
      waits_.fetch_add(1, std::memory_order_relaxed);
      landed_.Wait(flights_mutex_);
    }
  }
}

// Moves the positions whose rows are in flight out of `batch`, and keeps of `flights` those that
// have any of them.
std::vector<uint32_t> TierStack::TakeAwaited(RowBatch& batch, Flights& flights) {
  std::vector<uint32_t> awaited;
  std::vector<bool> used(flights.size());
  std::erase_if(batch.missing(), [&](uint32_t position) {
    for (size_t i = 0; i < flights.size(); ++i) {
      const std::vector<RowId>& ids = flights[i]->ids;
      if (!std::binary_search(ids.begin(), ids.end(), batch.ids()[position])) continue;
      used[i] = true;
      awaited.push_back(position);
      return true;
    }
    return false;
  });
  Flights kept;
  for (size_t i = 0; i < flights.size(); ++i) {
    if (used[i]) kept.push_back(std::move(flights[i]));
  }
  flights = std::move(kept);
  return awaited;
}

TierStack::Awaited TierStack::BeginRest(RowBatch& batch) {
  // In this order: what lands in between is found in memory. It is looked at once more in any case,
  // for the batch may have been queued, or have waited for the layer before.
  Awaited awaited{.flights = FlightsNow(), .positions = {}};
  ReadMemory(batch);
  if (!awaited.flights.empty()) awaited.positions = TakeAwaited(batch, awaited.flights);
  return awaited;
}

void TierStack::FinishRest(RowBatch& batch, Awaited awaited) {
  if (awaited.positions.empty()) return;
  CountLate(awaited.positions.size());
  WaitFor(awaited.flights);
  batch.missing() = std::move(awaited.positions);
  ReadMemory(batch);
  ReadStorage(batch);  // what was evicted at once, or could not be read: its error is reported
}

void TierStack::ReadRest(absl::Span<const Request> requests, ReadPriority priority) {
  std::vector<Awaited> awaited;
  for (const Request& request : requests) {
    awaited.push_back(request.stack->BeginRest(*request.batch));
  }
  ReadNvme(requests, priority);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].stack->FinishRest(*requests[i].batch, std::move(awaited[i]));
  }
}

uint64_t TierStack::Fill(absl::Span<const RowId> ids) {
  const auto flight = std::make_shared<Flight>();
  const std::shared_ptr<RowCache> cache = dram();
  if (cache == nullptr) return 0;
  uint64_t late = 0;
  for (const RowId id : ids) {
    const RowCache::Presence presence = cache->Look(id);
    if (presence == RowCache::Presence::kAbsent) flight->ids.push_back(id);
    // It was cold when it was queued, so a look-up has read it since. kUnread: another prefetch
    // brought it.
    late += presence == RowCache::Presence::kHeld;
  }
  CountLate(late);
  if (flight->ids.empty()) return 0;
  std::vector<std::byte> rows(flight->ids.size() * spec_.row_bytes);
  RowBatch batch(flight->ids, spec_.row_bytes, absl::MakeSpan(rows));
  const std::vector<uint32_t> positions = batch.missing();
  {
    MutexLock lock(flights_mutex_);
    flights_.push_back(flight);
  }
  ReadStorage(batch);
  const uint64_t offered = Offer(batch, positions, RowCache::Source::kPrefetch);
  {
    MutexLock lock(flights_mutex_);
    std::erase(flights_, flight);
    flight->landed = true;
  }
  landed_.NotifyAll();
  return offered;
}

void TierStack::Count(const RowBatch& batch) {
  uint64_t served = 0;
  for (const TierKind kind : kAllTiers) {
    const uint64_t hits = batch.served(kind);
    served += hits;
    if (hits > 0) {
      probe_->hits[static_cast<size_t>(kind)].fetch_add(hits, std::memory_order_relaxed);
    }
  }
  const uint64_t failed = batch.failures().size();
  if (failed > 0) probe_->failed_rows.fetch_add(failed, std::memory_order_relaxed);
  const uint64_t zeros =
      batch.ids().size() - served - failed - batch.missing().size() - batch.repeats();
  if (zeros > 0) probe_->zero_rows.fetch_add(zeros, std::memory_order_relaxed);
  hbm_.NoteSome(batch.ids());
}

void TierStack::CountLate(uint64_t rows) {
  if (rows > 0) probe_->late_rows.fetch_add(rows, std::memory_order_relaxed);
}

uint64_t TierStack::Offer(const RowBatch& batch, absl::Span<const uint32_t> positions,
                          RowCache::Source source) {
  const std::shared_ptr<RowCache> cache = dram();
  if (cache == nullptr) return 0;
  // A missing row's memory is whatever the buffer held before: offered, it would be served as the
  // row, to everybody and with status OK.
  const bool all_read = batch.failures().empty() && batch.missing().empty();
  std::vector<bool> unread(all_read ? 0 : batch.ids().size());
  for (const RowFailure& failure : batch.failures()) unread[failure.position] = true;
  for (const uint32_t position : batch.missing()) unread[position] = true;
  uint64_t offered = 0;
  for (const uint32_t position : positions) {
    if (!all_read && unread[position]) continue;
    cache->Offer(batch.ids().subspan(position, 1),
                 absl::MakeConstSpan(batch.row(position), batch.row_bytes()), source);
    ++offered;
  }
  return offered;
}

void TierStack::KeepCold(std::vector<RowId>& ids) const {
  const std::shared_ptr<RowCache> cache = dram();
  std::erase_if(ids, [&](RowId id) {
    return id == RowId::kDeadPosition || (cache != nullptr && cache->Contains(id));
  });
}

bool TierStack::PeekDram(RowId id, absl::Span<std::byte> out) const {
  const std::shared_ptr<RowCache> cache = dram();
  return cache != nullptr && cache->Peek(id, out);
}

std::shared_ptr<RowCache> TierStack::TakeDram() {
  std::shared_ptr<RowCache> taken;
  {
    MutexLock lock(mutex_);
    taken = std::move(dram_);
    dram_note_ = "off: only the active version of a table has DRAM";
  }
  WaitForLastReader(taken);
  if (taken != nullptr) {
    probe_->times_forgotten.fetch_add(taken->times_forgotten(), std::memory_order_relaxed);
  }
  return taken;
}

absl::Status TierStack::InstallDram(const DramGrant& grant) {
  absl::StatusOr<std::unique_ptr<RowCache>> cache =
      RowCache::Create({.budget_bytes = grant.budget_bytes,
                        .row_bytes = spec_.row_bytes,
                        .layer_rows = spec_.rows,
                        .table_digest = grant.table_digest,
                        .layer = Raw(spec_.id),
                        .admission = grant.admission,
                        .segments = grant.segments,
                        .helpers = grant.helpers,
                        .counters = &probe_->prefetch});
  MutexLock lock(mutex_);
  if (cache.ok()) {
    dram_ = *std::move(cache);
    dram_note_.clear();
    return absl::OkStatus();
  }
  dram_note_ = absl::StrCat("off: ", cache.status().message());
  // A budget that holds not even one set is the operator's choice (0 turns the tier off).
  return absl::IsInvalidArgument(cache.status()) ? absl::OkStatus() : cache.status();
}

absl::StatusOr<TierStack::ResizedDram> TierStack::ResizeDram(uint64_t budget_bytes) {
  std::shared_ptr<RowCache> before = dram();
  if (before == nullptr) return absl::FailedPreconditionError("there is no DRAM cache");
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<RowCache> now, before->Resize(budget_bytes));
  if (now == nullptr) return ResizedDram{};
  {
    MutexLock lock(mutex_);
    dram_ = now;
  }
  WaitForLastReader(before);
  probe_->times_forgotten.fetch_add(before->times_forgotten(), std::memory_order_relaxed);
  return ResizedDram{.before = std::move(before), .now = std::move(now)};
}

void TierStack::CountPlaced(uint64_t rows) {
  if (rows > 0) probe_->placed_rows.fetch_add(rows, std::memory_order_relaxed);
}

void TierStack::SetDramRemark(std::string remark) {
  MutexLock lock(mutex_);
  dram_remark_ = std::move(remark);
}

void TierStack::CountShared(uint64_t hbm_rows, uint64_t dram_rows, absl::Span<const RowId> sample) {
  const auto count = [&](TierKind tier, uint64_t rows) {
    if (rows == 0) return;
    probe_->hits[static_cast<size_t>(tier)].fetch_add(rows, std::memory_order_relaxed);
  };
  count(TierKind::kHbm, hbm_rows);
  count(TierKind::kDram, dram_rows);
  if (sample.empty()) return;
  hbm_.Note(sample);
  const std::shared_ptr<RowCache> cache = dram();
  if (cache == nullptr) return;
  for (const RowId id : sample) cache->Touch(id, dram::kSampleEvery);
}

uint64_t TierStack::AdoptedRows() const {
  const std::shared_ptr<RowCache> cache = dram();
  return cache == nullptr ? 0 : cache->taken_over_rows();
}

void TierStack::CountChecked(uint64_t rows, uint64_t mismatched) {
  probe_->checked_rows.fetch_add(rows, std::memory_order_relaxed);
  probe_->mismatched_rows.fetch_add(mismatched, std::memory_order_relaxed);
}

std::array<TierSnapshot, kTierCount> TierStack::Snapshot() const {
  std::array<TierSnapshot, kTierCount> result;
  result[static_cast<size_t>(TierKind::kHbm)].usage = hbm_.Usage();
  result[static_cast<size_t>(TierKind::kNvme)].usage = nvme_->Usage();
  TierSnapshot& in_dram = result[static_cast<size_t>(TierKind::kDram)];
  in_dram.checked_rows = probe_->checked_rows.load(std::memory_order_relaxed);
  in_dram.mismatched_rows = probe_->mismatched_rows.load(std::memory_order_relaxed);
  in_dram.times_forgotten = probe_->times_forgotten.load(std::memory_order_relaxed);
  TierUsage& usage = in_dram.usage;
  if (const std::shared_ptr<RowCache> cache = dram(); cache != nullptr) {
    usage = cache->Usage();
    in_dram.times_forgotten += cache->times_forgotten();
  } else {
    MutexLock lock(mutex_);
    usage.note = dram_note_;
  }
  {
    MutexLock lock(mutex_);
    if (!dram_remark_.empty()) absl::StrAppend(&usage.note, "; ", dram_remark_);
  }
  for (const TierKind kind : kAllTiers) {
    const size_t index = static_cast<size_t>(kind);
    result[index].hits = probe_->hits[index].load(std::memory_order_relaxed);
  }
  result[static_cast<size_t>(TierKind::kDram)].placed_rows =
      probe_->placed_rows.load(std::memory_order_relaxed);
  return result;
}

}  // namespace engram
