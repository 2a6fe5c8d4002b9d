#include "storage/nvme/shared_pages.h"

namespace engram {

bool SharedPages::Begin(PageId page, Waiter* waiter, size_t index) {
  MutexLock lock(mutex_);
  const auto [place, first] = pages_.try_emplace(page);
  if (!first) place->second.emplace_back(waiter, index);
  return first;
}

void SharedPages::Finish(PageId page, absl::Span<const std::byte> value) {
  Waiting waiting;
  {
    MutexLock lock(mutex_);
    const auto found = pages_.find(page);
    waiting = std::move(found->second);
    pages_.erase(found);
  }
  for (const auto& [waiter, index] : waiting) waiter->PageCame(index, value);
}

}  // namespace engram
