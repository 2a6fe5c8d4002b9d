// Where memory lies on a machine of several NUMA nodes. Plain system calls; thread-safe.
#ifndef ENGRAM_STORAGE_BASE_NUMA_H_
#define ENGRAM_STORAGE_BASE_NUMA_H_

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"

namespace engram {

// The nodes that this process may take memory from (its cpuset's), ascending. Unavailable, with the
// reason, where the kernel does not say: one without NUMA, or one that refuses the question, as
// containers' filters of system calls may.
absl::StatusOr<std::vector<int>> MemoryNodes();

// Whether somebody (numactl, NUMAPolicy= of systemd) has told this process where to take memory.
bool HasMemoryPolicy();

// Pages of [begin, begin + bytes) that are allocated from now on come from `node` as long as it has
// any; of a mapped file that holds for all who map it. `begin` is on a page boundary. False if the
// kernel refuses.
bool PreferNode(void* begin, size_t bytes, int node);

// The node that the byte's page lies on, −1 if the kernel does not say. Touches the page.
int NodeOf(const void* address);

}  // namespace engram

#endif  // ENGRAM_STORAGE_BASE_NUMA_H_
