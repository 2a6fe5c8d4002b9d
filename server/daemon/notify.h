// Tells systemd (Type=notify) where the daemon is in its life. Every call is a no-op without
// systemd, i.e. without $NOTIFY_SOCKET; none blocks. Thread-safe.
#ifndef ENGRAM_SERVER_DAEMON_NOTIFY_H_
#define ENGRAM_SERVER_DAEMON_NOTIFY_H_

#include "absl/strings/string_view.h"

namespace engram {

// `status` is what `systemctl status` shows: one line, e.g. "serving 2 tables".
void NotifyReady(absl::string_view status);
void NotifyStopping(absl::string_view status);

}  // namespace engram

#endif  // ENGRAM_SERVER_DAEMON_NOTIFY_H_
