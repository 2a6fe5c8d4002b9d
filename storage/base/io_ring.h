// IoRing: one thread's io_uring, for reads and writes that are kept in flight together.
//
// Used by one thread at a time. Requests are queued by Read and Write, handed to the kernel by
// Wait, and answered there, in whatever order they finish. Until its answer a request's buffer
// belongs to the kernel; the destructor waits for what is still under way.
//
//   IoRing ring(128);
//   if (!ring.status().ok()) …                        // refused: read in another way
//   ring.Read(fd, buffer, 4096, offset, tag);         // at most depth() in flight
//   ring.Wait(1, [&](uint64_t tag, int result) {…});  // bytes, or a negated errno
#ifndef ENGRAM_STORAGE_BASE_IO_RING_H_
#define ENGRAM_STORAGE_BASE_IO_RING_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

struct io_uring;

namespace engram {

// Whether rings can be made here and can read and write: OK, or Unavailable with the reason
// ("Operation not permitted" under a seccomp filter).
absl::Status ProbeIoUring();

class IoRing {
 public:
  // What became of one request: the bytes transferred (fewer than asked for at the end of a file),
  // or a negated errno. May queue further requests.
  using Done = absl::FunctionRef<void(uint64_t tag, int32_t result)>;

  // Requires 1 ≤ depth ≤ 4,096.
  explicit IoRing(unsigned depth);
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // OK, or Unavailable with the reason for which the ring cannot be used (any more). Nothing is in
  // flight in a ring that broke.
  const absl::Status& status() const { return status_; }
  unsigned depth() const { return depth_; }
  // Requests queued or under way, whose answers are still to come.
  unsigned in_flight() const { return in_flight_; }

  // Queue one request. Require status().ok() and in_flight() < depth().
  void Read(int fd, void* data, uint32_t bytes, uint64_t offset, uint64_t tag);
  void Write(int fd, const void* data, uint32_t bytes, uint64_t offset, uint64_t tag);

  // Submits what is queued, waits until `count` requests (or all there are, if fewer) are done, and
  // calls `done` once for each that is. Returns status(). When the ring breaks, the requests that
  // the kernel did not take are answered with the errno, so every request gets its one answer.
  const absl::Status& Wait(unsigned count, Done done);

 private:
  struct Free {
    void operator()(io_uring* ring) const;
  };

  void Reap(unsigned& answered, Done done);
  void Break(int error, Done done);

  const unsigned depth_;
  std::unique_ptr<io_uring, Free> ring_;
  absl::Status status_;
  unsigned queued_ = 0;  // of in_flight_: not yet submitted
  unsigned in_flight_ = 0;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_BASE_IO_RING_H_
