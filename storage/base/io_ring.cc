#include "storage/base/io_ring.h"

#include <liburing.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

namespace engram {
namespace {

// A kernel short of memory for requests says EAGAIN; it is given this long before the ring counts
// as broken.
constexpr std::chrono::microseconds kPause{200};
constexpr int kPauses = 2000;

absl::Status Refused(int error) { return absl::UnavailableError(std::strerror(error)); }

}  // namespace

absl::Status ProbeIoUring() {
  io_uring ring{};
  if (const int error = -::io_uring_queue_init(8, &ring, 0); error != 0) return Refused(error);
  io_uring_probe* probe = ::io_uring_get_probe_ring(&ring);
  const bool able = probe != nullptr && ::io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                    ::io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  ::io_uring_free_probe(probe);
  ::io_uring_queue_exit(&ring);
  if (able) return absl::OkStatus();
  return absl::UnavailableError("the kernel's io_uring has no plain read and write");
}

void IoRing::Free::operator()(io_uring* ring) const {
  ::io_uring_queue_exit(ring);
  delete ring;
}

IoRing::IoRing(unsigned depth) : depth_(depth) {
  auto ring = std::make_unique<io_uring>();
  if (const int error = -::io_uring_queue_init(depth, ring.get(), 0); error != 0) {
    status_ = Refused(error);
    return;
  }
  ring_.reset(ring.release());
}

IoRing::~IoRing() {
  // The kernel writes into buffers that will be gone.
  while (status_.ok() && in_flight_ > 0) Wait(in_flight_, [](uint64_t, int32_t) {});
}

void IoRing::Read(int fd, void* data, uint32_t bytes, uint64_t offset, uint64_t tag) {
  // Never null: the submission queue has room for depth_ requests.
  io_uring_sqe* const sqe = ::io_uring_get_sqe(ring_.get());
  ::io_uring_prep_read(sqe, fd, data, bytes, offset);
  ::io_uring_sqe_set_data64(sqe, tag);
  ++queued_;
  ++in_flight_;
}

void IoRing::Write(int fd, const void* data, uint32_t bytes, uint64_t offset, uint64_t tag) {
  io_uring_sqe* const sqe = ::io_uring_get_sqe(ring_.get());
  ::io_uring_prep_write(sqe, fd, data, bytes, offset);
  ::io_uring_sqe_set_data64(sqe, tag);
  ++queued_;
  ++in_flight_;
}

// Takes in what has come. `done` may queue more: the completion's slot is free before it is called.
void IoRing::Reap(unsigned& answered, Done done) {
  io_uring_cqe* cqe = nullptr;
  while (::io_uring_peek_cqe(ring_.get(), &cqe) == 0) {
    const uint64_t tag = ::io_uring_cqe_get_data64(cqe);
    const int32_t result = cqe->res;
    ::io_uring_cqe_seen(ring_.get(), cqe);
    --in_flight_;
    ++answered;
    done(tag, result);
  }
}

void IoRing::Break(int error, Done done) {
  // Tags of what the kernel never took, before the ring goes; what it took is waited for.
  std::vector<uint64_t> refused;
  const io_uring_sq& queue = ring_->sq;
  for (unsigned i = queue.sqe_tail - queued_; i != queue.sqe_tail; ++i) {
    refused.push_back(queue.sqes[i & *queue.kring_mask].user_data);
  }
  status_ = Refused(error);
  unsigned answered = 0;
  while (in_flight_ > refused.size()) {
    io_uring_cqe* cqe = nullptr;
    if (::io_uring_wait_cqe(ring_.get(), &cqe) == 0) Reap(answered, done);
  }
  ring_.reset();
  queued_ = 0;
  in_flight_ = 0;
  for (const uint64_t tag : refused) done(tag, -error);
}

const absl::Status& IoRing::Wait(unsigned count, Done done) {
  unsigned answered = 0;
  int pauses = 0;
  while (status_.ok() && in_flight_ > 0) {
    if (answered >= count && queued_ == 0) break;
    const unsigned wanted = answered >= count ? 0 : std::min(count - answered, in_flight_);
    const int submitted = ::io_uring_submit_and_wait(ring_.get(), wanted);
    if (submitted >= 0) {
      queued_ -= static_cast<unsigned>(submitted);
    } else if ((submitted == -EAGAIN || submitted == -EBUSY) && pauses < kPauses) {
      ++pauses;
      std::this_thread::sleep_for(kPause);
    } else if (submitted != -EINTR) {
      Break(-submitted, done);
      break;
    }
    Reap(answered, done);
  }
  return status_;
}

}  // namespace engram
