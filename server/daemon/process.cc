#include "server/daemon/process.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

#include "storage/base/log.h"

namespace engram {
namespace {

// A store has four descriptors a file, some 1,500 for a table of 189 GiB; shells and containers
// often start a process with 1,024. The hard limit is the administrator's word.
void RaiseFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == files.rlim_max) return;
  const rlim_t before = files.rlim_cur;
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) == 0) return;
  ENGRAM_LOG(kWarning) << "the limit of open files stays at " << before
                       << ": large tables may need more (ulimit -n)";
}

}  // namespace

sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

void PrepareProcess() {
  RaiseFileLimit();
  // A client that goes away in the middle of an answer is an error code, not a signal.
  signal(SIGPIPE, SIG_IGN);
  // gRPC allocates and frees large messages all the time; giving each back to the kernel costs
  // more than the gather.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

}  // namespace engram
