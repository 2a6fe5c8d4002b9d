// RowCache: the DRAM tier of one layer, in segments that clients on the host may map read-only.
//
// When the budget holds the whole layer it is resident: every row has its place, and a bit that
// says whether it is there. Else it is a set-associative cache: the tags of a set (15 row ids) lie
// in one 64-byte cache line behind a version counter. A reader copies a row and checks the version
// afterwards (a sequence lock); it never waits and never writes shared memory except a used-bit. A
// writer takes a set by making its version odd; a set that is taken is skipped, for an offered row
// can always be offered again. Whom an offered row replaces, if anybody, is hotness.h's matter.
//
// Any number of threads may call any method at once, but for Discard. A row that comes out is byte
// for byte one that was offered under that id.
#ifndef ENGRAM_STORAGE_DRAM_ROW_CACHE_H_
#define ENGRAM_STORAGE_DRAM_ROW_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/work_pool.h"
#include "storage/dram/hotness.h"
#include "storage/dram/layout.h"
#include "storage/dram/prefetch_counters.h"
#include "storage/dram/segment.h"
#include "storage/table/ids.h"
#include "storage/table/tier.h"

namespace engram {

class RowCache final : public Tier {
 public:
  struct Options {
    // Everything that the cache takes, its segments and its own heap; it never takes more than the
    // layer's rows need.
    uint64_t budget_bytes = 0;
    uint32_t row_bytes = 0;
    uint64_t layer_rows = 0;
    // Names the rows: segments that an earlier daemon left for the same ones are taken over.
    std::string table_digest = {};
    int32_t layer = 0;
    // What is kept where not all rows fit.
    dram::Admission admission = dram::Admission::kAdaptive;
    SegmentStore* segments = nullptr;  // outlives the cache
    // Large batches are gathered together with idle threads of these, if given. They outlive the
    // cache, and so do `counters`, in which the fate of prefetched rows is counted.
    WorkPool* helpers = nullptr;
    PrefetchCounters* counters = nullptr;
  };
  // InvalidArgument: the budget is less than one set, or a value is out of bounds.
  // ResourceExhausted: there is not enough memory.
  static absl::StatusOr<std::unique_ptr<RowCache>> Create(const Options& options);
  // Named segments stay where they are, for the next daemon; Discard gives them up.
  ~RowCache() override;

  TierKind kind() const override { return TierKind::kDram; }
  void Read(RowBatch& batch) override;
  TierUsage Usage() const override;

  enum class Source { kLookup, kPrefetch };
  // Takes copies of rows that were not held: rows[i * row_bytes …] is the row of ids[i].
  // RowId::kDeadPosition ids and rows already held are passed over, and so are those that admission
  // keeps out. May evict others of the same set. Of kLookup each row counts as one access.
  void Offer(absl::Span<const RowId> ids, absl::Span<const std::byte> rows,
             Source source = Source::kLookup);

  // Stores rows that are known to be asked for `count` times each (1 to dram::kMaxCount), from a
  // profile or an earlier daemon; laid out as for Offer. Each takes an empty way of its set, else
  // that of the weakest row if its count is lower; of a resident layer each has its place. Rows
  // that are held are passed over. Returns how many were stored.
  uint64_t Place(absl::Span<const RowId> ids, uint32_t count, absl::Span<const std::byte> rows);
  // Whether Place would store a row at this moment; saves reading rows that it would not. False if
  // the row is held.
  bool HasRoomFor(RowId id, uint32_t count) const;
  // Raises what is known of a row to `count`: see dram::Hotness. Nothing if resident.
  void Recall(RowId id, uint32_t count);
  // Reports rows that are held, with their counts (at least 1), while others write: those of the
  // units from `first` on, `units` of them (sets; rows if resident), of Units() in all. A set that
  // is being written all the time is passed over.
  uint64_t Units() const;
  void VisitHeld(uint64_t first, uint64_t units,
                 absl::FunctionRef<void(RowId id, uint32_t count)> visit) const;

  // Copies one row out without counting it as used. False if it is not held. For checking.
  bool Peek(RowId id, absl::Span<std::byte> out) const;
  bool Contains(RowId id) const { return Look(id) != Presence::kAbsent; }
  // kUnread: a prefetch brought the row, and nobody has read it.
  enum class Presence { kAbsent, kHeld, kUnread };
  Presence Look(RowId id) const;
  // Another process has read `weight` rows, of which this is one; so it said. Any id is taken.
  void Touch(RowId id, uint32_t weight);

  // Rows that an earlier daemon had left in the segments when the cache was made; some may have
  // been evicted since.
  uint64_t taken_over_rows() const;
  // dram::Hotness::times_forgotten; 0 of a resident layer.
  uint64_t times_forgotten() const;
  // What rules most sets at the moment.
  dram::Policy policy() const;

  // What a client needs to read along.
  const dram::LayerShape& shape() const;
  const std::vector<std::shared_ptr<Segment>>& segments() const;
  // For each of the dram::kBuckets its segment; empty if there is only one, or it is resident.
  const std::vector<uint16_t>& bucket_segments() const;

  // The cache that this one becomes with another budget, with as many of its segments, and so of
  // its rows, as there is room for. Both may be used until one of them is discarded; nothing is
  // given back before. Null: nothing has to change. FailedPrecondition: that cannot be; this one is
  // to be discarded and another created. Else as Create; then nothing has changed.
  absl::StatusOr<std::unique_ptr<RowCache>> Resize(uint64_t budget_bytes) const;

  // Gives the memory back, also that which clients have mapped, but for the segments that
  // `successor` has too. Clients have been told before (SegmentStore::Advance), and nobody reads or
  // offers any more.
  void Discard(const RowCache* successor = nullptr);

 private:
  class Impl;
  explicit RowCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_ROW_CACHE_H_
