// TierStack: the straight way of a batch through one layer of one table version, dram → nvme.
// What workers read in HBM does not pass through it, and is only counted in its access log.
//
// Thread-safe. Reads take no lock that another thread holds for longer than it takes to copy a
// pointer.
#ifndef ENGRAM_SERVER_TABLES_TIER_STACK_H_
#define ENGRAM_SERVER_TABLES_TIER_STACK_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/tables/hbm_access_log.h"
#include "server/tables/stats.h"
#include "storage/base/mutex.h"
#include "storage/dram/row_cache.h"
#include "storage/nvme/store.h"
#include "storage/table/row_batch.h"
#include "storage/table/spec.h"

namespace engram {

class TierStack {
 public:
  // `probe` must outlive the stack.
  TierStack(LayerSpec spec, std::unique_ptr<LayerReader> nvme, std::string hbm_note,
            LayerProbe* probe);

  const LayerSpec& spec() const { return spec_; }

  // The tiers in memory. Never waits for the drive.
  void ReadMemory(RowBatch& batch);
  struct Request {
    TierStack* stack = nullptr;
    RowBatch* batch = nullptr;
  };
  // The rest of a look-up, all its layers at once. Rows that a Fill is fetching are waited for; all
  // others are read from the drive, the layers' reads under way together. Nothing is missing
  // afterwards; what could not be read is failed.
  static void ReadRest(absl::Span<const Request> requests, ReadPriority priority);
  // The same of one layer from the drive alone, whatever memory holds or a Fill is fetching.
  void ReadStorage(RowBatch& batch);
  // Adds what the batch saw to the counters. Once a batch, when it is done.
  void Count(const RowBatch& batch);

  // Brings those of these rows into DRAM that it lacks, for a prefetch; `ids` are sorted, each
  // once, none of them RowId::kDeadPosition. Returns how many rows were offered to DRAM. Blocks on
  // the drive.
  uint64_t Fill(absl::Span<const RowId> ids);

  // Offers the rows at these positions of a batch to DRAM; failed ones, and those that are not
  // read yet, are left out. Returns how many were offered.
  uint64_t Offer(const RowBatch& batch, absl::Span<const uint32_t> positions,
                 RowCache::Source source = RowCache::Source::kLookup);
  // Leaves the rows that DRAM does not hold; RowId::kDeadPosition goes too.
  void KeepCold(std::vector<RowId>& ids) const;
  bool HasDram() const { return dram() != nullptr; }
  // A copy of the row as DRAM holds it; false if it does not.
  bool PeekDram(RowId id, absl::Span<std::byte> out) const;

  // Takes the DRAM cache away and waits until its last reader in this process is done; null if
  // there is none. Blocks, for about as long as one batch. The caller advances the generation,
  // and then discards it.
  std::shared_ptr<RowCache> TakeDram();
  // Makes a cache of at most `budget_bytes`, with what `segments` has left of an earlier one; none
  // if the budget is below one set. Requires that there is none. All as for RowCache::Create.
  struct DramGrant {
    uint64_t budget_bytes = 0;
    SegmentStore* segments = nullptr;  // outlives the stack
    std::string table_digest = {};
    dram::Admission admission = dram::Admission::kAdaptive;
    WorkPool* helpers = nullptr;
  };
  absl::Status InstallDram(const DramGrant& grant);
  // Gives the cache another budget and waits until the last reader in this process of the one
  // before is done. The caller advances the generation, and then discards `before` but for what
  // `now` has; both are null if nothing had to change. Errors as for RowCache::Resize;
  // FailedPrecondition also if there is no cache.
  struct ResizedDram {
    std::shared_ptr<RowCache> before;
    std::shared_ptr<const RowCache> now;
  };
  absl::StatusOr<ResizedDram> ResizeDram(uint64_t budget_bytes);

  HbmAccessLog& hbm() { return hbm_; }

  // For clients that read DRAM themselves. To be let go of soon: TakeDram waits for it.
  std::shared_ptr<const RowCache> SharedDram() const { return dram(); }
  // Rows that DRAM began with, left by an earlier daemon; 0 if there is no cache.
  uint64_t AdoptedRows() const;
  // Of those, compared with NVMe now and found to differ.
  void CountChecked(uint64_t rows, uint64_t mismatched);
  // For bringing rows in besides look-ups, and looking at what is held; as briefly.
  std::shared_ptr<RowCache> DramToFill() const { return dram(); }
  void CountPlaced(uint64_t rows);
  // Something that the operator should know of the DRAM tier, shown in `stats` behind its note.
  void SetDramRemark(std::string remark);
  // Names the stack towards them; never used again while the daemon lives.
  uint32_t id() const { return id_; }
  // What a client says that it has read by itself, in HBM and in DRAM; a sample of the rows.
  void CountShared(uint64_t hbm_rows, uint64_t dram_rows, absl::Span<const RowId> sample);

  // Counts waits of look-ups for a Fill, and of TakeDram and ResizeDram for a reader. It grows as a
  // wait begins, so that a test can tell a thread that waits from one that goes on.
  uint64_t waits() const { return waits_.load(std::memory_order_relaxed); }

  std::array<TierSnapshot, kTierCount> Snapshot() const;
  const LayerProbe& probe() const { return *probe_; }

 private:
  // Rows on their way to DRAM.
  struct Flight {
    std::vector<RowId> ids;  // sorted; const once the flight is in flights_
    bool landed = false;     // guarded by flights_mutex_
  };
  using Flights = std::vector<std::shared_ptr<Flight>>;

  std::shared_ptr<RowCache> dram() const;
  void WaitForLastReader(const std::shared_ptr<RowCache>& cache);
  Flights FlightsNow() const;
  void WaitFor(const Flights& flights);
  static std::vector<uint32_t> TakeAwaited(RowBatch& batch, Flights& flights);
  // What ReadRest leaves to be fetched by others.
  struct Awaited {
    Flights flights;
    std::vector<uint32_t> positions;
  };
  Awaited BeginRest(RowBatch& batch);
  void FinishRest(RowBatch& batch, Awaited awaited);
  static void ReadNvme(absl::Span<const Request> requests, ReadPriority priority);
  void CountLate(uint64_t rows);
  static void ReadTier(Tier& tier, RowBatch& batch);

  const LayerSpec spec_;
  const uint32_t id_;
  const std::unique_ptr<LayerReader> nvme_;
  HbmAccessLog hbm_;
  LayerProbe* const probe_;
  std::atomic<uint64_t> waits_{0};  // relaxed: only the number matters
  mutable Mutex mutex_;
  std::shared_ptr<RowCache> dram_ ABSL_GUARDED_BY(mutex_);
  std::string dram_note_ ABSL_GUARDED_BY(mutex_);
  std::string dram_remark_ ABSL_GUARDED_BY(mutex_);

  mutable Mutex flights_mutex_;
  CondVar landed_;
  Flights flights_ ABSL_GUARDED_BY(flights_mutex_);  // at most one for each thread in Fill
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_TIER_STACK_H_
