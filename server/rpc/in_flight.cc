#include "server/rpc/in_flight.h"

namespace engram {

InFlight::Token InFlight::Enter() {
  {
    MutexLock lock(mutex_);
    if (closed_) return nullptr;
    ++count_;
  }
  return Token(this, [](void* self) { static_cast<InFlight*>(self)->Leave(); });
}

void InFlight::Close() {
  MutexLock lock(mutex_);
  closed_ = true;
}

bool InFlight::WaitUntilIdle(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  MutexLock lock(mutex_);
  while (count_ > 0) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    idle_.WaitFor(mutex_, left);
  }
  return true;
}

void InFlight::Leave() {
  MutexLock lock(mutex_);
  if (--count_ == 0) idle_.NotifyAll();
}

}  // namespace engram
