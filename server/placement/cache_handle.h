// CacheHandle: a layer's DRAM cache as it was, to be found again later if it is still the same one.
//
// It holds neither the table nor the cache, so that drops and switches need not wait for its owner.
// Copyable. Thread-safe as a value; the tables outlive it.
#ifndef ENGRAM_SERVER_PLACEMENT_CACHE_HANDLE_H_
#define ENGRAM_SERVER_PLACEMENT_CACHE_HANDLE_H_

#include <cstdint>
#include <memory>

#include "server/tables/tables.h"
#include "storage/dram/row_cache.h"

namespace engram {

class CacheHandle {
 public:
  CacheHandle() = default;
  // Of the cache that the stack has now; not valid if there is none.
  CacheHandle(const Tables* tables, uint32_t stack_id);

  struct Held {
    std::shared_ptr<const OpenTable> table;  // keeps the stack
    TierStack* stack = nullptr;
    std::shared_ptr<RowCache> cache;  // null: it is gone, or the stack has another one now
  };
  // To be held briefly: drops and switches wait for it.
  Held Get() const;
  bool valid() const { return tables_ != nullptr; }
  // Whether both are of one cache.
  bool SameAs(const CacheHandle& other) const;

 private:
  const Tables* tables_ = nullptr;
  uint32_t stack_id_ = 0;
  std::weak_ptr<const RowCache> cache_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_CACHE_HANDLE_H_
