// DramShares: divides the DRAM budget among layers, in proportion to their bytes, and moves memory
// from one to another. Tables owns it and says which layers are active.
//
// Memory is given back before it is taken, so that the shares add up to the budget at most, at
// every moment. Before memory is given back, clients on the host see the generation advance.
//
// One thread at a time, while no stack that has a share goes away. Calls block for about as long as
// the longest batch under way.
#ifndef ENGRAM_SERVER_TABLES_DRAM_SHARES_H_
#define ENGRAM_SERVER_TABLES_DRAM_SHARES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "server/tables/tier_stack.h"
#include "storage/dram/segment.h"

namespace engram {

class DramShares {
 public:
  struct Options {
    SegmentStore* segments = nullptr;  // outlives the shares
    dram::Admission admission = dram::Admission::kAdaptive;
    WorkPool* gather_helpers = nullptr;  // as for RowCache::Create
    // Called after the generation has advanced and before shared memory is given back. Null: sleeps
    // for as long as a client's batch takes. For tests.
    std::function<void()> await_clients = nullptr;
  };
  struct Layer {
    TierStack* stack = nullptr;
    std::string table_digest;
  };

  explicit DramShares(Options options) : options_(std::move(options)) {}

  // Gives these layers `budget_bytes` in all, and every other layer nothing. Rows stay as far as
  // there is room, as does what an earlier daemon left of these layers. A layer whose memory cannot
  // be allocated is logged and keeps what it has.
  void Divide(uint64_t budget_bytes, absl::Span<const Layer> layers);

  // Takes away what these stacks have. They may go afterwards.
  void Release(absl::Span<TierStack* const> stacks);
  void ReleaseAll() { Shrink({}); }

  // Replaces the cache of this layer, which has one, by an empty one of the same size.
  void Renew(const Layer& layer);

 private:
  struct Share {
    uint64_t bytes = 0;
    std::string table_digest;
  };
  using Shares = std::map<TierStack*, Share>;

  static Shares Plan(uint64_t budget_bytes, absl::Span<const Layer> layers);
  void Shrink(const Shares& wanted);
  void TrimLeftovers(const Shares& wanted);
  void Grow(TierStack& stack, const Share& wanted);
  void Install(TierStack& stack, const Share& share);
  void GiveBack(std::vector<TierStack::ResizedDram> caches);

  const Options options_;
  // What each stack with a cache was given. Those that keep their share are left alone.
  std::map<TierStack*, uint64_t> shares_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_DRAM_SHARES_H_
