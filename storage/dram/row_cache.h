// RowCache: the DRAM tier of one layer, a set-associative cache of whole rows.
//
// The tags of a set (15 row ids) lie in one 64-byte cache line behind a version counter. A reader
// copies a row and checks the version afterwards (a sequence lock); it never waits and never
// writes shared memory except a used-bit. A writer takes a set by making its version odd; a set
// that is taken is skipped, for an offered row can always be offered again.
//
// Any number of threads may call any method at once. A row that comes out is byte for byte one
// that was offered under that id.
#ifndef ENGRAM_STORAGE_DRAM_ROW_CACHE_H_
#define ENGRAM_STORAGE_DRAM_ROW_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/work_pool.h"
#include "storage/dram/prefetch_counters.h"
#include "storage/table/ids.h"
#include "storage/table/tier.h"

namespace engram {

class RowCache final : public Tier {
 public:
  // A cache for rows of `row_bytes` that takes at most `budget_bytes` of memory, tags and
  // used-bits included, and never more than `max_rows` rows need. InvalidArgument: the budget is
  // less than one set. ResourceExhausted: the memory is not to be had.
  // Large batches are gathered together with idle threads of `helpers`, if given; it must outlive
  // the cache. So must `counters`, if given, in which the fate of prefetched rows is counted.
  static absl::StatusOr<std::unique_ptr<RowCache>> Create(uint64_t budget_bytes, uint32_t row_bytes,
                                                          uint64_t max_rows,
                                                          WorkPool* helpers = nullptr,
                                                          PrefetchCounters* counters = nullptr);
  ~RowCache() override;

  TierKind kind() const override { return TierKind::kDram; }
  void Read(RowBatch& batch) override;
  TierUsage Usage() const override;

  enum class Source { kLookup, kPrefetch };
  // Takes copies of rows: rows[i * row_bytes …] is the row of ids[i]. kZeroRow ids and rows
  // already held are passed over. May evict others of the same set.
  void Offer(absl::Span<const RowId> ids, absl::Span<const std::byte> rows,
             Source source = Source::kLookup);

  // Copies one row out without counting it as used. False if it is not held. For checking.
  bool Peek(RowId id, absl::Span<std::byte> out) const;
  bool Contains(RowId id) const { return Look(id) != Presence::kAbsent; }
  // kUnread: a prefetch brought the row, and nobody has read it.
  enum class Presence { kAbsent, kHeld, kUnread };
  Presence Look(RowId id) const;

 private:
  class Impl;
  explicit RowCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_ROW_CACHE_H_
