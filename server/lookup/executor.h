// A fixed number of threads behind a bounded queue, for what must not run on the threads that
// answer requests: reads from NVMe and large batches.
//
// Thread-safe. Tasks must not throw and must not wait for other tasks of the same executor.
#ifndef ENGRAM_SERVER_LOOKUP_EXECUTOR_H_
#define ENGRAM_SERVER_LOOKUP_EXECUTOR_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "storage/base/mutex.h"

namespace engram {

class Executor {
 public:
  // Requires threads ≥ 1. At most `max_queued` tasks wait.
  Executor(int threads, size_t max_queued);
  // Runs what is queued, then joins.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // False, and the task is dropped unrun, when the queue is full. Never blocks.
  bool TrySubmit(std::function<void()> task);

  size_t queued() const;
  size_t max_queued() const { return max_queued_; }

 private:
  void Work();

  const size_t max_queued_;
  mutable Mutex mutex_;
  CondVar wake_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_EXECUTOR_H_
