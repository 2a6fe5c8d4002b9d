#include "server/placement/cache_handle.h"

#include <utility>

namespace engram {

CacheHandle::CacheHandle(const Tables* tables, uint32_t stack_id) : stack_id_(stack_id) {
  const Tables::SharedStack shared = tables->FindStack(stack_id);
  if (shared.stack == nullptr) return;
  const std::shared_ptr<const RowCache> cache = shared.stack->SharedDram();
  if (cache == nullptr) return;
  tables_ = tables;
  cache_ = cache;
}

CacheHandle::Held CacheHandle::Get() const {
  if (tables_ == nullptr) return {};
  Tables::SharedStack shared = tables_->FindStack(stack_id_);
  if (shared.stack == nullptr) return {};
  std::shared_ptr<RowCache> cache = shared.stack->DramToFill();
  // By owner: a later cache may lie at the same address.
  if (cache_.owner_before(cache) || cache.owner_before(cache_)) cache = nullptr;
  return {std::move(shared.table), shared.stack, std::move(cache)};
}

bool CacheHandle::SameAs(const CacheHandle& other) const {
  return !cache_.owner_before(other.cache_) && !other.cache_.owner_before(cache_);
}

}  // namespace engram
