// Memory that answers are gathered into and sent from.
//
// A large malloc is a fresh mapping: touching it costs a page fault for every 4 KiB, several times
// the gather itself. The pool keeps buffers of a few sizes for the next answer instead.
//
// Thread-safe. A buffer may outlive its pool's last use, not the pool.
#ifndef ENGRAM_SERVER_LOOKUP_BUFFER_POOL_H_
#define ENGRAM_SERVER_LOOKUP_BUFFER_POOL_H_

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "storage/base/mutex.h"

namespace engram {

class BufferPool {
 public:
  // Keeps at most `max_kept_bytes` of unused buffers.
  explicit BufferPool(size_t max_kept_bytes);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // `size` bytes, 64-byte aligned, contents unspecified; goes back to the pool with the last
  // reference. Null when the memory cannot be allocated.
  std::shared_ptr<std::byte> Get(size_t size);

  size_t kept_bytes() const;

 private:
  // Size classes are powers of two from 4 KiB to 32 MiB; larger buffers are not kept.
  static constexpr size_t kMinShift = 12;
  static constexpr size_t kClasses = 14;

  void Return(std::byte* buffer, size_t size_class);

  const size_t max_kept_bytes_;
  mutable Mutex mutex_;
  size_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<std::vector<std::byte*>, kClasses> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_BUFFER_POOL_H_
