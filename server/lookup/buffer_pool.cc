#include "server/lookup/buffer_pool.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

namespace engram {
namespace {

constexpr size_t kAlignment = 64;

std::byte* Allocate(size_t size) {
  return static_cast<std::byte*>(
      std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment));
}

}  // namespace

BufferPool::BufferPool(size_t max_kept_bytes) : max_kept_bytes_(max_kept_bytes) {}

BufferPool::~BufferPool() {
  MutexLock lock(mutex_);
  for (const std::vector<std::byte*>& buffers : free_) {
    for (std::byte* buffer : buffers) std::free(buffer);
  }
}

std::shared_ptr<std::byte> BufferPool::Get(size_t size) {
  const size_t shift = std::max<size_t>(std::bit_width(size > 0 ? size - 1 : 0), kMinShift);
  const size_t size_class = shift - kMinShift;
  if (size_class >= kClasses) {
    std::byte* buffer = Allocate(size);
    if (buffer == nullptr) return nullptr;
    return std::shared_ptr<std::byte>(buffer, [](std::byte* unused) { std::free(unused); });
  }
  std::byte* buffer = nullptr;
  {
    MutexLock lock(mutex_);
    if (!free_[size_class].empty()) {
      buffer = free_[size_class].back();
      free_[size_class].pop_back();
      kept_bytes_ -= size_t{1} << shift;
    }
  }
  if (buffer == nullptr) buffer = Allocate(size_t{1} << shift);
  if (buffer == nullptr) return nullptr;
  return std::shared_ptr<std::byte>(
      buffer, [this, size_class](std::byte* unused) { Return(unused, size_class); });
}

size_t BufferPool::kept_bytes() const {
  MutexLock lock(mutex_);
  return kept_bytes_;
}

void BufferPool::Return(std::byte* buffer, size_t size_class) {
  const size_t size = size_t{1} << (size_class + kMinShift);
  {
    MutexLock lock(mutex_);
    if (kept_bytes_ + size <= max_kept_bytes_) {
      kept_bytes_ += size;
      free_[size_class].push_back(buffer);
      return;
    }
  }
  std::free(buffer);
}

}  // namespace engram
