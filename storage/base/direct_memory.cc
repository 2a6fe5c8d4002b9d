#include "storage/base/direct_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace engram {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

void FreeDirectMemory::operator()(std::byte* data) const { std::free(data); }

size_t RoundUpDirect(size_t bytes) {
  // A huge page of which less than half is used is not worth its memory.
  const size_t unit = bytes > kHugePage / 2 ? kHugePage : kDirectAlignment;
  return (bytes + unit - 1) / unit * unit;
}

DirectMemory AllocateDirect(size_t bytes) {
  const size_t rounded = RoundUpDirect(bytes);
  const bool huge = rounded % kHugePage == 0;
  void* const data = std::aligned_alloc(huge ? kHugePage : kDirectAlignment, rounded);
  if (data == nullptr && rounded > 0) throw std::bad_alloc();
  // Advice only: without huge pages the memory is the same, and slower to pin.
  if (huge && rounded > 0) ::madvise(data, rounded, MADV_HUGEPAGE);
  return DirectMemory(static_cast<std::byte*>(data));
}

}  // namespace engram
