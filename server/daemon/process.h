// Settings of the whole process, made once, before its first thread.
#ifndef ENGRAM_SERVER_DAEMON_PROCESS_H_
#define ENGRAM_SERVER_DAEMON_PROCESS_H_

#include <signal.h>

namespace engram {

// Blocks SIGTERM and SIGINT and returns the set of them, for sigwait. Threads made later, gRPC's
// and RocksDB's too, inherit the mask.
sigset_t BlockStopSignals();

// Ignores SIGPIPE, raises the limit of open files to its hard limit, and makes the allocator keep
// large blocks. A limit that cannot be raised is logged.
void PrepareProcess();

}  // namespace engram

#endif  // ENGRAM_SERVER_DAEMON_PROCESS_H_
