// What the daemon counts, apart from the logic that it counts: probes (written on the way of a
// batch, once a batch) and snapshots of them (read by `stats`, /metrics and the status page).
//
// Probes are thread-safe. Counters belong to a table's name and live as long as the daemon knows
// the table, so that they only grow across a switch of versions.
#ifndef ENGRAM_SERVER_TABLES_STATS_H_
#define ENGRAM_SERVER_TABLES_STATS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "storage/base/mutex.h"
#include "storage/dram/prefetch_counters.h"
#include "storage/nvme/page_read_counters.h"
#include "storage/table/ids.h"
#include "storage/table/tier.h"

namespace engram {

// Upper bounds of the latency buckets, in seconds: a factor of two each, 1 µs to 16.8 s. One more
// bucket takes what is slower.
inline constexpr size_t kLatencyBounds = 25;
std::array<double, kLatencyBounds> LatencyBounds();

struct LatencySnapshot {
  std::array<uint64_t, kLatencyBounds + 1> counts{};  // per bucket, not cumulative
  uint64_t count = 0;
  double sum_seconds = 0;

  // Interpolated inside the bucket; 0 before the first observation.
  double Quantile(double q) const;
};

class LatencyHistogram {
 public:
  void Observe(std::chrono::nanoseconds elapsed);
  LatencySnapshot Snapshot() const;

 private:
  std::array<std::atomic<uint64_t>, kLatencyBounds + 1> counts_{};
  std::atomic<uint64_t> sum_ns_{0};
};

// All counters are statistics only: relaxed is enough, for nothing is decided by them.
struct LayerProbe {
  std::array<std::atomic<uint64_t>, kTierCount> hits{};  // rows served by each tier
  std::atomic<uint64_t> failed_rows{0};
  std::atomic<uint64_t> zero_rows{0};
  PageReadCounters pages;
  PrefetchCounters prefetch;
  std::atomic<uint64_t> late_rows{0};  // of prefetches: asked for before they had arrived
  // Of rows in DRAM that an earlier daemon left: compared with NVMe, and found to differ.
  std::atomic<uint64_t> checked_rows{0};
  std::atomic<uint64_t> mismatched_rows{0};
  std::atomic<uint64_t> times_forgotten{0};  // RowCache::times_forgotten, of caches that are gone
  std::atomic<uint64_t> placed_rows{0};      // brought into DRAM by a profile, or what was saved
};

struct TableSnapshot;

class TableProbe {
 public:
  // The layer's probe, made at the first call; valid as long as the TableProbe.
  LayerProbe& Layer(LayerId layer);

  // Fills the snapshot's prefetched_… fields, over all layers.
  void AddPrefetches(TableSnapshot& snapshot);

  std::atomic<uint64_t> lookups{0};         // calls
  std::atomic<uint64_t> failed_lookups{0};  // calls that ended in an error
  std::atomic<uint64_t> skipped_prefetch_rows{0};
  LatencyHistogram lookup_seconds;

 private:
  Mutex mutex_;
  std::map<LayerId, std::unique_ptr<LayerProbe>> layers_ ABSL_GUARDED_BY(mutex_);
};

struct TierSnapshot {
  TierUsage usage;
  uint64_t hits = 0;
  // Of DRAM alone: of rows that an earlier daemon left, compared with NVMe and found to differ; how
  // often a move of the popular rows was noticed.
  uint64_t checked_rows = 0;
  uint64_t mismatched_rows = 0;
  uint64_t times_forgotten = 0;
  uint64_t placed_rows = 0;  // of DRAM too: brought there by a profile, or what was saved
};

struct LayerSnapshot {
  LayerId layer{};
  std::array<TierSnapshot, kTierCount> tiers;  // indexed by TierKind
  uint64_t failed_rows = 0;
  uint64_t zero_rows = 0;
  uint64_t failed_pages = 0;   // reads of NVMe pages that gave no row
  uint64_t retried_pages = 0;  // that came wrong, and right when asked for once more
  uint64_t shared_pages = 0;   // that came with the read of another call

  // Of the rows that asked for a tier, the share served by this one; 0 before the first.
  double HitRatio(TierKind kind) const;
};

struct TableSnapshot {
  std::string name;
  VersionId version{};  // the active one; 0 when there is none
  uint64_t lookups = 0;
  uint64_t failed_lookups = 0;
  uint64_t prefetched_rows = 0;         // that prefetches read into DRAM
  uint64_t prefetched_used_rows = 0;    // of them, asked for since
  uint64_t prefetched_unused_rows = 0;  // of them, evicted before they were asked for
  uint64_t prefetched_late_rows = 0;    // asked for before their prefetch had brought them
  uint64_t skipped_prefetch_rows = 0;
  LatencySnapshot lookup_seconds;
  std::vector<LayerSnapshot> layers;
};

// What waits in one class of the look-ups' queue.
struct QueueSnapshot {
  uint64_t jobs = 0;
  uint64_t units = 0;            // that are left to do: cold rows, 64ths of warm ones
  LatencySnapshot wait_seconds;  // from a job's arrival to its first piece
};
// "decode", "prefill", "prefetch", "background": the most urgent first (server/lookup, Urgency).
inline constexpr std::array<const char*, 4> kQueueClasses = {"decode", "prefill", "prefetch",
                                                             "background"};

// Why look-ups are refused, and how many were.
enum class Refusal : uint8_t { kQueueFull, kTooLarge, kShuttingDown };
inline constexpr std::array<const char*, 3> kRefusalNames = {"queue_full", "too_large",
                                                             "shutting_down"};
struct RefusalProbe {
  void Count(Refusal reason) {
    counts[static_cast<size_t>(reason)].fetch_add(1, std::memory_order_relaxed);
  }
  std::array<std::atomic<uint64_t>, kRefusalNames.size()> counts{};
};

struct DaemonSnapshot {
  std::string daemon_version;
  double uptime_seconds = 0;
  bool ready = false;
  std::string nvme_io;  // how the store reads: "io_uring, direct I/O"
  std::string hbm_note;
  std::string dram_memory;        // where it lies, and whether it is shared
  uint64_t attached_clients = 0;  // that read DRAM themselves
  uint64_t dram_budget_bytes = 0;
  uint64_t hbm_budget_bytes = 0;
  uint64_t client_connections = 0;  // to Unix sockets
  std::array<QueueSnapshot, kQueueClasses.size()> queue;
  std::array<uint64_t, kRefusalNames.size()> refused{};
  std::vector<TableSnapshot> tables;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_STATS_H_
