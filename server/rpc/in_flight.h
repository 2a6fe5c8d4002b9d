// InFlight: how many calls are being answered, so that shutting down waits for just those.
//
// gRPC's own Shutdown waits until every client has closed its connection, and an idle client may
// not notice for as long as it likes.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_RPC_IN_FLIGHT_H_
#define ENGRAM_SERVER_RPC_IN_FLIGHT_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "storage/base/mutex.h"

namespace engram {

class InFlight {
 public:
  // Held while a call is being answered; null once Close was called: refuse the call.
  using Token = std::shared_ptr<void>;
  Token Enter();

  // Lets nothing new in.
  void Close();

  // Waits until nothing is in flight; false when the patience is over first.
  bool WaitUntilIdle(std::chrono::milliseconds patience);

 private:
  void Leave();

  Mutex mutex_;
  CondVar idle_;
  uint64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_IN_FLIGHT_H_
