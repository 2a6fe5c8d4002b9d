// Dispatcher: runs what must not run on the threads that take calls (reads from NVMe, large
// batches, prefetches), in pieces, in the order of a FairQueue.
//
// A thread is kept for decode work: what is urgent waits neither in the queue nor for a thread that
// is busy with something else, only for the drive.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_LOOKUP_DISPATCHER_H_
#define ENGRAM_SERVER_LOOKUP_DISPATCHER_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "server/lookup/fair_queue.h"
#include "server/tables/stats.h"
#include "storage/base/mutex.h"

namespace engram {

static_assert(kQueueClasses.size() == kUrgencies);

class Dispatcher {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  static constexpr Deadline kNoDeadline = Deadline::max();

  // None of its methods may throw.
  class Job {
   public:
    virtual ~Job() = default;
    // Does units [first, first + units). Pieces of one job run at the same time.
    virtual void Run(uint64_t first, uint64_t units) = 0;
    // Whether nobody waits for it any more: its other pieces are then dropped. Asked before each,
    // with the dispatcher's lock held, so it calls nobody and takes no time.
    virtual bool IsGone() const = 0;
    // Once, when no piece is running and none is left: all were run, or the rest was dropped. May
    // Continue.
    virtual void Done() = 0;
  };

  struct Order {
    ClientId client{};
    Urgency urgency = Urgency::kPrefill;
    uint64_t units = 1;  // ≥ 1
    Deadline deadline = kNoDeadline;
    // Towards max_queued. Not: what its sender bounds by itself.
    bool counts = true;
  };

  struct Options {
    int threads = 4;           // ≥ 1; one more is for decode work alone
    size_t max_queued = 1024;  // jobs that wait and count; a client may have half of them
    uint64_t piece_units = 64;
  };
  explicit Dispatcher(const Options& options);
  // Runs what is queued, then joins.
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // False, and the job is dropped without a call to it, when it counts and the queue is full. Never
  // blocks.
  bool Submit(const Order& order, std::shared_ptr<Job> job);
  // One piece of work.
  bool Submit(const Order& order, std::function<void()> task);
  // More work for a job that is Done: never refused.
  void Continue(const Order& order, std::shared_ptr<Job> job);

  size_t max_queued() const { return max_queued_; }
  // Jobs that wait.
  size_t queued() const;
  // Whether any job waits or runs. Takes no lock.
  bool busy() const { return active_.load(std::memory_order_relaxed) > 0; }
  // By class; waits are from Submit or Continue to a job's first piece.
  std::array<QueueSnapshot, kUrgencies> Snapshot() const;

 private:
  struct Active {
    std::shared_ptr<Job> job;
    Urgency urgency = Urgency::kPrefill;
    std::chrono::steady_clock::time_point since;
    int running = 0;     // pieces
    bool begun = false;  // a piece has been taken
    bool queued = true;  // something of it waits
  };
  // The threads that may run the same classes.
  struct Crew {
    uint32_t classes = 0;  // a bit for each
    int idle = 0;
    CondVar wake;
  };

  void Add(const Order& order, std::shared_ptr<Job> job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake(Urgency urgency) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work(bool decode_only);
  void RunPiece(const FairQueue::Piece& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t max_queued_;
  std::array<LatencyHistogram, kUrgencies> waits_;
  std::atomic<size_t> active_{0};  // jobs_'s size; relaxed: a hint
  mutable Mutex mutex_;
  FairQueue queue_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<JobId, Active> jobs_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Crew decode_ ABSL_GUARDED_BY(mutex_);
  Crew all_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_LOOKUP_DISPATCHER_H_
