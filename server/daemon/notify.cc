#include "server/daemon/notify.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

void Send(absl::string_view state, absl::string_view status) {
  std::string line(status);
  // A newline would begin another assignment of the protocol.
  std::replace(line.begin(), line.end(), '\n', ' ');
  // Nothing to do about a failure: systemd would time the start out and say so itself.
  sd_notify(/*unset_environment=*/0, absl::StrCat(state, "STATUS=", line).c_str());
}

}  // namespace

void NotifyReady(absl::string_view status) { Send("READY=1\n", status); }
void NotifyStopping(absl::string_view status) { Send("STOPPING=1\n", status); }

}  // namespace engram
