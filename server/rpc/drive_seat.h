// DriveSeat: which look-ups a thread of the call loop answers itself, instead of the dispatcher.
//
// At most one of the loop's threads reads from the drive: to wake one of the dispatcher's takes 30
// µs or more, and a decoded token's rows take some 500. With several threads, one always remains
// for rows in memory, whatever the drive does. A single thread reads only while no other call is
// under way and the dispatcher has nothing to do, so that the drive answers at once; a call that
// arrives meanwhile waits for that read.
//
// Thread-safe. Never blocks.
#ifndef ENGRAM_SERVER_RPC_DRIVE_SEAT_H_
#define ENGRAM_SERVER_RPC_DRIVE_SEAT_H_

#include <atomic>
#include <cstddef>

#include "server/lookup/dispatcher.h"
#include "server/rpc/call_loop.h"

namespace engram {

// More rows than this are gathered by the dispatcher, so that one large batch does not hold up the
// small ones behind it on the loop's thread. 8,192 rows of 264 bytes take about half a millisecond.
inline constexpr size_t kInlineRows = 8192;
// So many rows may be read from the drive by the holder of the seat: those of a few decoded tokens.
inline constexpr size_t kInlineColdRows = 256;

class DriveSeat {
 public:
  // Takes the seat, if it is free, until it goes out of scope.
  class Hold {
   public:
    explicit Hold(DriveSeat& seat) : seat_(seat.TryTake() ? &seat : nullptr) {}
    ~Hold() {
      if (seat_ != nullptr) seat_->taken_.store(false, std::memory_order_release);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    explicit operator bool() const { return seat_ != nullptr; }

   private:
    DriveSeat* const seat_;
  };

  // Both outlive the seat.
  DriveSeat(const CallLoop& loop, const Dispatcher& dispatcher)
      : loop_(loop), dispatcher_(dispatcher) {}

 private:
  bool TryTake() {
    if (loop_.threads() == 1 && (loop_.calls() > 1 || dispatcher_.busy())) return false;
    // Pairs with the release store in ~Hold.
    return !taken_.exchange(true, std::memory_order_acquire);
  }

  const CallLoop& loop_;
  const Dispatcher& dispatcher_;
  std::atomic<bool> taken_{false};
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_DRIVE_SEAT_H_
