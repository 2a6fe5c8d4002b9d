// Memory for direct I/O: aligned as drives want it, and in huge pages where it is large enough for
// one and the kernel gives them. The kernel pins the pages of each request one by one; a request of
// 1 MiB is 256 small pages or a part of one huge one.
//
// Pure functions and an owner; safe from any thread.
#ifndef ENGRAM_STORAGE_BASE_DIRECT_MEMORY_H_
#define ENGRAM_STORAGE_BASE_DIRECT_MEMORY_H_

#include <cstddef>
#include <memory>

namespace engram {

// Enough for drives with 512-byte and with 4 KiB sectors.
inline constexpr size_t kDirectAlignment = 4096;

struct FreeDirectMemory {
  void operator()(std::byte* data) const;
};
using DirectMemory = std::unique_ptr<std::byte, FreeDirectMemory>;

// What AllocateDirect(bytes) will give: `bytes` in whole blocks, or in whole huge pages.
size_t RoundUpDirect(size_t bytes);

// RoundUpDirect(bytes) bytes, not cleared. Throws std::bad_alloc, as new does.
DirectMemory AllocateDirect(size_t bytes);

}  // namespace engram

#endif  // ENGRAM_STORAGE_BASE_DIRECT_MEMORY_H_
