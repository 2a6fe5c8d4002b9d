// The status page (/) and the numbers behind it (/stats.json). Stateless and thread-safe.
#ifndef ENGRAM_SERVER_HTTP_STATUS_PAGE_H_
#define ENGRAM_SERVER_HTTP_STATUS_PAGE_H_

#include <string>

#include "server/tables/stats.h"

namespace engram {

// One JSON document, in the form of `engramctl stats --json` with more keys:
//   {"daemon_version", "uptime_seconds", "ready", "nvme_io", "hbm_note", "dram_memory",
//    "attached_clients", "dram_budget_bytes", "hbm_budget_bytes",
//    "tables": [{"name", "version", "lookups", "failed_lookups", "prefetched_rows",
//                "prefetched_used_rows", "prefetched_unused_rows", "prefetched_late_rows",
//                "skipped_prefetch_rows", "failed_rows", "zero_rows", "lookup_p50_seconds",
//                "lookup_p99_seconds", "tiers": TIERS,
//                "layers": [{"layer", "failed_rows", "zero_rows", "tiers": TIERS}]}]}
// where TIERS is {"hbm": T, "dram": T, "nvme": T} and T is
//   {"on", "note", "hits", "rows", "bytes", "capacity_bytes", "hit_ratio"};
// a table's tiers are the sums over its layers (on: any layer's; note: the first one's that has
// one). hit_ratio as LayerSnapshot::HitRatio. Text that is not UTF-8 has its bad bytes replaced.
std::string StatsJson(const DaemonSnapshot& snapshot);

// Self-contained HTML (nothing is loaded but /stats.json, once a second); it holds the snapshot,
// so that it also reads well when saved.
std::string StatusPage(const DaemonSnapshot& snapshot);

// The Content-Security-Policy that the page is to be sent with.
extern const char kStatusPagePolicy[];

}  // namespace engram

#endif  // ENGRAM_SERVER_HTTP_STATUS_PAGE_H_
