// Ctrl-C and SIGTERM as a flag, so that a command can end in order.
#ifndef ENGRAM_CLIENT_CLI_INTERRUPT_H_
#define ENGRAM_CLIENT_CLI_INTERRUPT_H_

#include <atomic>

namespace engram {

// From the first call on, the first SIGINT or SIGTERM sets the flag; the second one kills the
// process as usual. The flag lives for ever.
const std::atomic<bool>& CatchInterrupts();

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_INTERRUPT_H_
