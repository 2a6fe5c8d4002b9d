// What DRAM the daemon may have on this host, and where: asked once, at start, before anything is
// served.
#ifndef ENGRAM_SERVER_PLACEMENT_DRAM_SETUP_H_
#define ENGRAM_SERVER_PLACEMENT_DRAM_SETUP_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/config.h"
#include "storage/dram/segment.h"

namespace engram {

struct DramSetup {
  std::unique_ptr<SegmentStore> segments;
  uint64_t budget_bytes = 0;  // what was asked for, or less where the host has less
  // Where it lies and, if it is less or not shared, why.
  std::string note;
};

// ResourceExhausted when the directory for shared memory is too small for the budget, saying what
// to mount. NotFound, PermissionDenied or FailedPrecondition when it is not usable and is not the
// default; the default is done without.
absl::StatusOr<DramSetup> SetUpDram(const Config& config);

// Whether the tier, which has `held_bytes` now, may have `bytes`. ResourceExhausted, saying what
// there is and what to do, if not.
absl::Status CheckRoomForDram(const SegmentStore& segments, uint64_t bytes, uint64_t held_bytes);

// Bytes that a process may still take: MemAvailable of /proc/meminfo and what the process' cgroups
// leave (memory.max less memory.current, of version 2; the same of version 1), whichever is less.
// `proc` and `cgroups` are the directories where those are mounted. The largest number when neither
// can be read.
uint64_t AvailableMemory(const std::string& proc = "/proc",
                         const std::string& cgroups = "/sys/fs/cgroup");

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_DRAM_SETUP_H_
