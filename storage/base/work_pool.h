// WorkPool: a few threads that help a caller with parts of its batch (groups of page reads, or
// stretches of a gather).
//
// The caller always takes part, so that work is done even when every thread of the pool is busy
// with other batches; the queue of offers is bounded, and a caller that finds it full simply does
// more itself. All methods are thread-safe.
#ifndef ENGRAM_STORAGE_BASE_WORK_POOL_H_
#define ENGRAM_STORAGE_BASE_WORK_POOL_H_

#include <cstddef>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "storage/base/mutex.h"

namespace engram {

class WorkPool {
 public:
  explicit WorkPool(int threads);
  ~WorkPool();  // no Run may be in progress
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  int threads() const { return static_cast<int>(threads_.size()); }

  // Calls work(0) … work(count − 1), each once, on this thread and on idle threads of the pool;
  // returns when all of them have returned. `work` may run on several threads at once.
  void Run(size_t count, absl::FunctionRef<void(size_t)> work);

 private:
  struct Job;
  static void Help(Job& job);
  void Serve();

  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::shared_ptr<Job>> offers_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_BASE_WORK_POOL_H_
