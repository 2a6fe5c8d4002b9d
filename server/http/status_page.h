// The status page (/) and the numbers behind it (/stats.json). Stateless and thread-safe.
#ifndef ENGRAM_SERVER_HTTP_STATUS_PAGE_H_
#define ENGRAM_SERVER_HTTP_STATUS_PAGE_H_

#include <string>

#include "server/tables/stats.h"

namespace engram {

// The engram.v1.StatsResponse of ToStatsMessage as one JSON document, by proto/message_json.h: the
// form of `engramctl stats --json`. proto/engram/v1/admin.proto says what each key means. Text that
// is not UTF-8 has its bad bytes replaced.
std::string StatsJson(const DaemonSnapshot& snapshot);

// Self-contained HTML (nothing is loaded but /stats.json, once a second); it holds the snapshot,
// so that it also reads well when saved.
std::string StatusPage(const DaemonSnapshot& snapshot);

// The Content-Security-Policy that the page is to be sent with.
extern const char kStatusPagePolicy[];

}  // namespace engram

#endif  // ENGRAM_SERVER_HTTP_STATUS_PAGE_H_
