#include "server/http/status_page.h"

#include <string>

#include "absl/strings/str_replace.h"
#include "proto/message_json.h"
#include "server/http/stats_message.h"
#include "server/http/status_page_html.h"

namespace engram {

const char kStatusPagePolicy[] =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

std::string StatsJson(const DaemonSnapshot& snapshot) {
  return MessageToJson(ToStatsMessage(snapshot));
}

std::string StatusPage(const DaemonSnapshot& snapshot) {
  // Inside a script element only `<` could end the text; JSON has it in strings alone.
  const std::string json = absl::StrReplaceAll(StatsJson(snapshot), {{"<", "\\u003c"}});
  return absl::StrReplaceAll(kStatusPageHtml, {{"{{SNAPSHOT}}", json}});
}

}  // namespace engram
