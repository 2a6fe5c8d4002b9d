#include "storage/base/aligned_map.h"

#include <sys/mman.h>

#include <cerrno>

namespace engram {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = uint64_t{2} << 20;

// Address space at a multiple of `align`, not to be read or written yet; null if there is none.
std::byte* Reserve(uint64_t bytes, uint64_t align) {
  uint64_t room = 0;
  if (__builtin_add_overflow(bytes, align, &room)) {
    errno = ENOMEM;
    return nullptr;
  }
  void* const raw = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(raw);
  const uint64_t head = -reinterpret_cast<uintptr_t>(begin) % align;
  if (head > 0) ::munmap(begin, head);
  if (align > head) ::munmap(begin + head + bytes, align - head);
  return begin + head;
}

}  // namespace

AlignedMap::~AlignedMap() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

AlignedMap AlignedMap::Map(int fd, uint64_t bytes, int protection) {
  AlignedMap map(Reserve(bytes, bytes >= kHugePage ? kHugePage : kPage), bytes);
  if (!map.valid()) return AlignedMap();
  const int kind = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  if (::mmap(map.data_, bytes, protection, kind | MAP_FIXED, fd, 0) == MAP_FAILED) {
    const int error = errno;
    map = AlignedMap();
    errno = error;
    return map;
  }
  // A core dump must not be as large as a tier. Refusal does no harm.
  (void)::madvise(map.data_, bytes, MADV_DONTDUMP);
  return map;
}

}  // namespace engram
