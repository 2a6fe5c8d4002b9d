#include "server/tables/dram_shares.h"

#include <chrono>
#include <thread>
#include <utility>

#include "storage/base/log.h"
#include "storage/base/size.h"

namespace engram {
namespace {

// How long memory stays after the generation has advanced: for the batches that clients have begun.
// Without it they would read zeros, and throw them away; but to read what is no longer there also
// allocates memory, which a full file system may refuse with a signal.
constexpr std::chrono::milliseconds kClientBatch{20};

}  // namespace

void DramShares::Divide(uint64_t budget_bytes, absl::Span<const Layer> layers) {
  const Shares wanted = Plan(budget_bytes, layers);
  Shrink(wanted);
  TrimLeftovers(wanted);
  for (const auto& [stack, share] : wanted) Grow(*stack, share);
}

void DramShares::Release(absl::Span<TierStack* const> stacks) {
  std::vector<TierStack::ResizedDram> going;
  for (TierStack* const stack : stacks) {
    going.push_back({.before = stack->TakeDram(), .now = nullptr});
    shares_.erase(stack);
  }
  GiveBack(std::move(going));
}

void DramShares::Renew(const Layer& layer) {
  GiveBack({{.before = layer.stack->TakeDram(), .now = nullptr}});
  Install(*layer.stack, {.bytes = shares_.at(layer.stack), .table_digest = layer.table_digest});
}

DramShares::Shares DramShares::Plan(uint64_t budget_bytes, absl::Span<const Layer> layers) {
  Shares shares;
  uint64_t total = 0;
  for (const Layer& layer : layers) {
    const uint64_t bytes = layer.stack->spec().bytes();
    shares[layer.stack] = {bytes, layer.table_digest};
    total += bytes;
  }
  for (auto& [stack, share] : shares) {
    const double part = static_cast<double>(share.bytes) / static_cast<double>(total);
    share.bytes = static_cast<uint64_t>(part * static_cast<double>(budget_bytes));
  }
  return shares;
}

// Everything that shrinks or goes gives its memory back.
void DramShares::Shrink(const Shares& wanted) {
  std::vector<TierStack::ResizedDram> going;
  for (auto share = shares_.begin(); share != shares_.end();) {
    auto& [stack, bytes] = *share;
    const auto want = wanted.find(stack);
    if (want != wanted.end() && want->second.bytes >= bytes) {
      ++share;
      continue;
    }
    if (want != wanted.end()) {
      if (absl::StatusOr<TierStack::ResizedDram> resized = stack->ResizeDram(want->second.bytes);
          resized.ok()) {
        going.push_back(*std::move(resized));
        bytes = want->second.bytes;
        ++share;
        continue;
      }
    }
    going.push_back({.before = stack->TakeDram(), .now = nullptr});
    share = shares_.erase(share);
  }
  GiveBack(std::move(going));
}

// What an earlier daemon left is kept where it is wanted, within the shares.
void DramShares::TrimLeftovers(const Shares& wanted) {
  std::map<std::pair<std::string, int32_t>, uint64_t> room;
  for (const auto& [stack, share] : wanted) {
    if (shares_.contains(stack)) continue;
    room[{share.table_digest, Raw(stack->spec().id)}] = share.bytes;
  }
  options_.segments->TrimLeftovers([&](const dram::SegmentHeader& header, uint64_t bytes) {
    const auto left = room.find({std::string(header.table_digest), header.layer});
    if (left == room.end() || left->second < bytes) return false;
    left->second -= bytes;
    return true;
  });
}

void DramShares::Grow(TierStack& stack, const Share& wanted) {
  const auto share = shares_.find(&stack);
  if (share != shares_.end()) {
    if (share->second == wanted.bytes) return;
    absl::StatusOr<TierStack::ResizedDram> resized = stack.ResizeDram(wanted.bytes);
    if (resized.ok()) {
      GiveBack({*std::move(resized)});
      share->second = wanted.bytes;
      return;
    }
    if (absl::IsResourceExhausted(resized.status())) {
      ENGRAM_LOG(kError) << "layer " << Raw(stack.spec().id) << " keeps a DRAM tier of "
                         << FormatSize(share->second) << ": " << resized.status().message();
      return;
    }
    GiveBack({{.before = stack.TakeDram(), .now = nullptr}});
  }
  Install(stack, wanted);
}

void DramShares::Install(TierStack& stack, const Share& share) {
  if (const absl::Status status = stack.InstallDram({.budget_bytes = share.bytes,
                                                     .segments = options_.segments,
                                                     .table_digest = share.table_digest,
                                                     .admission = options_.admission,
                                                     .helpers = options_.gather_helpers});
      !status.ok()) {
    ENGRAM_LOG(kError) << "layer " << Raw(stack.spec().id) << " gets no DRAM tier of "
                       << FormatSize(share.bytes) << ": " << status.message();
  }
  shares_[&stack] = share.bytes;
}

// Advances the generation, so that clients release the memory of these caches, and discards it but
// for what the resized ones keep.
void DramShares::GiveBack(std::vector<TierStack::ResizedDram> caches) {
  std::erase_if(caches, [](const auto& cache) { return cache.before == nullptr; });
  if (caches.empty()) return;
  SegmentStore& segments = *options_.segments;
  segments.Advance();
  if (segments.shared()) {
    if (options_.await_clients) {
      options_.await_clients();
    } else {
      std::this_thread::sleep_for(kClientBatch);
    }
  }
  for (const auto& [before, now] : caches) before->Discard(now.get());
}

}  // namespace engram
