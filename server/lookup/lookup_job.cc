#include "server/lookup/lookup_job.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace engram {
namespace {

// A row in memory takes a 60th of a cold one's time, or less.
constexpr uint64_t kWarmRowsPerUnit = 64;

// More than the rows of some 20 decoded tokens are no decode work, whatever their caller says.
constexpr uint64_t kMaxDecodeUnits = 1024;

bool IsOver(Dispatcher::Deadline deadline) {
  return deadline != Dispatcher::kNoDeadline && std::chrono::steady_clock::now() >= deadline;
}

}  // namespace

bool LookupJob::Submit(Dispatcher& dispatcher, std::shared_ptr<Lookup> lookup, bool memory_read,
                       Caller caller) {
  const std::shared_ptr<LookupJob> job(
      new LookupJob(dispatcher, std::move(lookup), std::move(caller)));
  Stage first = memory_read ? Stage::kRead : Stage::kGather;
  if (!memory_read && job->lookup_->NeedsRepeatsAside()) first = Stage::kAside;
  if (dispatcher.Submit(job->Begin(first), job)) return true;
  job->lookup_->Abandon();
  return false;
}

Dispatcher::Order LookupJob::Begin(Stage stage) {
  stage_ = stage;
  uint64_t units = 1;
  Urgency urgency = Urgency::kPrefill;
  switch (stage) {
    case Stage::kAside:
      break;
    case Stage::kGather:
      rows_ = lookup_->BeginGather();
      units = (rows_ + kWarmRowsPerUnit - 1) / kWarmRowsPerUnit;
      break;
    case Stage::kRead:
      rows_ = lookup_->BeginRead();
      units = rows_;
      if (rows_ <= kDecodeRows) urgency = Urgency::kDecode;
      break;
  }
  urgency = caller_.urgency.value_or(urgency);
  if (units > kMaxDecodeUnits && urgency == Urgency::kDecode) urgency = Urgency::kPrefill;
  priority_ = urgency == Urgency::kDecode ? ReadPriority::kUrgent : ReadPriority::kNormal;
  return {.client = caller_.client,
          .urgency = urgency,
          .units = std::max<uint64_t>(units, 1),
          .deadline = caller_.deadline};
}

void LookupJob::Run(uint64_t first, uint64_t units) {
  switch (stage_) {
    case Stage::kAside:
      lookup_->SetRepeatsAside();
      return;
    case Stage::kGather:
      lookup_->GatherPiece(first * kWarmRowsPerUnit, units * kWarmRowsPerUnit);
      return;
    case Stage::kRead:
      ReportParts();  // layers that were all in memory
      // A small answer does not wait until DRAM has been offered its rows.
      lookup_->ReadPiece(first, units, priority_, /*offer=*/rows_ > kDecodeRows);
      ReportParts();
      return;
  }
}

bool LookupJob::IsGone() const {
  return failed_.load(std::memory_order_relaxed) || caller_.is_gone() || IsOver(caller_.deadline);
}

void LookupJob::ReportParts() {
  if (!caller_.on_part) return;
  MutexLock lock(mutex_);
  for (; reported_ < lookup_->parts().size(); ++reported_) {
    if (failed_.load(std::memory_order_relaxed) || !lookup_->IsWhole(reported_)) return;
    if (lookup_->fails() && !lookup_->parts()[reported_]->batch.failures().empty()) {
      failed_.store(true, std::memory_order_relaxed);
      return;
    }
    caller_.on_part(reported_);
  }
}

// Whether the rows are all there, whoever waits for them.
bool LookupJob::HasAll() const {
  if (stage_ != Stage::kRead) return false;
  for (size_t i = 0; i < lookup_->parts().size(); ++i) {
    if (!lookup_->IsWhole(i)) return false;
  }
  return true;
}

void LookupJob::Done() {
  if (!failed_.load(std::memory_order_relaxed) && !HasAll() && IsGone()) {
    lookup_->Abandon();
    caller_.on_done(caller_.is_gone()
                        ? absl::CancelledError("the caller has cancelled the look-up")
                        : absl::DeadlineExceededError("the deadline passed before all was read"));
    return;
  }
  switch (stage_) {
    case Stage::kAside:
      dispatcher_.Continue(Begin(Stage::kGather), shared_from_this());
      return;
    case Stage::kGather:
      if (lookup_->EndGather()) {
        lookup_->BeginRead();
        ReportParts();
        Finish();
      } else {
        dispatcher_.Continue(Begin(Stage::kRead), shared_from_this());
      }
      return;
    case Stage::kRead:
      lookup_->EndRead();
      Finish();
      return;
  }
}

void LookupJob::Finish() {
  caller_.on_done(lookup_->Finish());
  if (rows_ <= kDecodeRows) lookup_->Warm();
}

}  // namespace engram
