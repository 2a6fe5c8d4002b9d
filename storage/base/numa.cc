#include "storage/base/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace engram {
namespace {

// The C library has no wrappers for these calls. Kernels are built for up to 1,024 nodes, and
// refuse masks that are shorter than that.
constexpr size_t kMostNodes = 1024;
constexpr size_t kWordBits = sizeof(unsigned long) * CHAR_BIT;
using NodeMask = std::array<unsigned long, kMostNodes / kWordBits>;
// The kernel reads one bit less than it is told.
constexpr unsigned long kMaskBits = kMostNodes + 1;

long GetPolicy(int* mode, NodeMask* nodes, const void* address, unsigned long flags) {
  return ::syscall(SYS_get_mempolicy, mode, nodes == nullptr ? nullptr : nodes->data(),
                   nodes == nullptr ? 0 : kMaskBits, address, flags);
}

}  // namespace

absl::StatusOr<std::vector<int>> MemoryNodes() {
  NodeMask mask{};
  if (GetPolicy(nullptr, &mask, nullptr, MPOL_F_MEMS_ALLOWED) != 0) {
    return absl::UnavailableError(
        absl::StrCat("the kernel does not say its NUMA nodes: ", std::strerror(errno)));
  }
  std::vector<int> nodes;
  for (size_t node = 0; node < kMostNodes; ++node) {
    if ((mask[node / kWordBits] >> (node % kWordBits) & 1) != 0) {
      nodes.push_back(static_cast<int>(node));
    }
  }
  return nodes;
}

bool HasMemoryPolicy() {
  int mode = MPOL_DEFAULT;
  return GetPolicy(&mode, nullptr, nullptr, 0) == 0 && mode != MPOL_DEFAULT;
}

bool PreferNode(void* begin, size_t bytes, int node) {
  if (node < 0 || static_cast<size_t>(node) >= kMostNodes) return false;
  NodeMask mask{};
  mask[static_cast<size_t>(node) / kWordBits] = 1ul << (static_cast<size_t>(node) % kWordBits);
  return ::syscall(SYS_mbind, begin, bytes, MPOL_PREFERRED, mask.data(), kMaskBits, 0) == 0;
}

int NodeOf(const void* address) {
  int node = -1;
  return GetPolicy(&node, nullptr, address, MPOL_F_NODE | MPOL_F_ADDR) == 0 ? node : -1;
}

}  // namespace engram
