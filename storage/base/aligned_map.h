// Memory mapped where it can have huge pages: the kernel maps a file or anonymous memory with huge
// pages only from a multiple of their size on.
//
// An owner and a pure function; safe from any thread.
#ifndef ENGRAM_STORAGE_BASE_ALIGNED_MAP_H_
#define ENGRAM_STORAGE_BASE_ALIGNED_MAP_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace engram {

// A mapping of its own, unmapped when the object goes.
class AlignedMap {
 public:
  AlignedMap() = default;
  AlignedMap(AlignedMap&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedMap& operator=(AlignedMap&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~AlignedMap();

  // `bytes` bytes of the file, shared, from its start on; of anonymous memory if `fd` is negative.
  // They begin at a multiple of 2 MiB if there are so many, else of a page, and are left out of
  // core dumps. `protection` as for mmap. Not valid, with errno set, if they cannot be mapped.
  static AlignedMap Map(int fd, uint64_t bytes, int protection);

  bool valid() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  AlignedMap(std::byte* data, uint64_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_BASE_ALIGNED_MAP_H_
