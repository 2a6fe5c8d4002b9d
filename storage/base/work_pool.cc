#include "storage/base/work_pool.h"

#include <algorithm>
#include <atomic>
#include <utility>

namespace engram {
namespace {

// Offers waiting for a thread, per thread of the pool.
constexpr size_t kOffersPerThread = 4;

}  // namespace

struct WorkPool::Job {
  Job(size_t items, absl::FunctionRef<void(size_t)> function) : count(items), work(function) {}

  const size_t count;
  // Lives in the caller's frame: only whoever has claimed an item below `count` may call it, for
  // the caller waits until each claimed item is done.
  absl::FunctionRef<void(size_t)> work;
  std::atomic<size_t> next{0};  // relaxed: it only hands out numbers

  Mutex mutex;
  CondVar all_done;
  size_t done ABSL_GUARDED_BY(mutex) = 0;
};

WorkPool::WorkPool(int threads) {
  threads_.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Serve(); });
}

WorkPool::~WorkPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void WorkPool::Help(Job& job) {
  size_t finished = 0;
  for (;;) {
    const size_t item = job.next.fetch_add(1, std::memory_order_relaxed);
    if (item >= job.count) break;
    job.work(item);
    ++finished;
  }
  if (finished == 0) return;
  MutexLock lock(job.mutex);
  job.done += finished;
  if (job.done == job.count) job.all_done.NotifyAll();
}

void WorkPool::Run(size_t count, absl::FunctionRef<void(size_t)> work) {
  if (count <= 1 || threads_.empty()) {
    for (size_t i = 0; i < count; ++i) work(i);
    return;
  }
  const auto job = std::make_shared<Job>(count, work);
  size_t offered = 0;
  {
    MutexLock lock(mutex_);
    const size_t limit = threads_.size() * kOffersPerThread;
    const size_t wanted = std::min(count - 1, threads_.size());
    for (; offered < wanted && offers_.size() < limit; ++offered) offers_.push_back(job);
  }
  for (size_t i = 0; i < offered; ++i) wake_.NotifyOne();
  Help(*job);
  MutexLock lock(job->mutex);
  while (job->done < count) job->all_done.Wait(job->mutex);
}

void WorkPool::Serve() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      MutexLock lock(mutex_);
      while (offers_.empty() && !stopping_) wake_.Wait(mutex_);
      if (offers_.empty()) return;
      job = std::move(offers_.front());
      offers_.pop_front();
    }
    Help(*job);
  }
}

}  // namespace engram
