// What the daemon counts, as the wire's message: for `stats` over gRPC, /stats.json and the status
// page. A pure function, safe from any thread.
#ifndef ENGRAM_SERVER_HTTP_STATS_MESSAGE_H_
#define ENGRAM_SERVER_HTTP_STATS_MESSAGE_H_

#include "engram/v1/admin.pb.h"
#include "server/tables/stats.h"

namespace engram {

// hit_ratio as LayerSnapshot::HitRatio, for a table of the sums over its layers.
v1::StatsResponse ToStatsMessage(const DaemonSnapshot& snapshot);

}  // namespace engram

#endif  // ENGRAM_SERVER_HTTP_STATS_MESSAGE_H_
