// The daemon's counters as Prometheus text (exposition format 0.0.4), for /metrics.
//
// What each metric means stands in deploy/METRICS.md; a test holds the two together. Stateless
// and thread-safe.
#ifndef ENGRAM_SERVER_HTTP_METRICS_H_
#define ENGRAM_SERVER_HTTP_METRICS_H_

#include <string>

#include "server/tables/stats.h"

namespace engram {

inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// One family a metric, in a fixed order; label values are escaped by the serialiser. Families
// that have no series yet (no table is known) are left out.
std::string MetricsText(const DaemonSnapshot& snapshot);

}  // namespace engram

#endif  // ENGRAM_SERVER_HTTP_METRICS_H_
