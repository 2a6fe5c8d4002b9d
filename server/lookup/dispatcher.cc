#include "server/lookup/dispatcher.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

// A tenth of the weight of the threads that take calls.
constexpr int kNice = 10;

class Task final : public Dispatcher::Job {
 public:
  explicit Task(std::function<void()> task) : task_(std::move(task)) {}
  void Run(uint64_t /*first*/, uint64_t /*units*/) override { task_(); }
  bool IsGone() const override { return false; }
  void Done() override {}

 private:
  const std::function<void()> task_;
};

// A call for rows in memory takes a tenth of a millisecond and must not wait for a core that
// thousands of cold rows are being copied on. Linux has a nice value for each thread.
void GiveWay() { (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice); }

constexpr uint32_t Bit(Urgency urgency) { return 1u << static_cast<uint32_t>(urgency); }

}  // namespace

Dispatcher::Dispatcher(const Options& options)
    : max_queued_(options.max_queued),
      queue_({.piece_units = options.piece_units,
              .jobs = options.max_queued,
              .jobs_of_client = std::max<size_t>(options.max_queued / 2, 1)}) {
  {
    MutexLock lock(mutex_);
    decode_.classes = Bit(Urgency::kDecode);
    all_.classes = ~0u;
  }
  threads_.emplace_back([this] { Work(/*decode_only=*/true); });
  for (int i = 0; i < options.threads; ++i) {
    threads_.emplace_back([this] {
      GiveWay();
      Work(/*decode_only=*/false);
    });
  }
}

Dispatcher::~Dispatcher() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    decode_.wake.NotifyAll();
    all_.wake.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool Dispatcher::Submit(const Order& order, std::shared_ptr<Job> job) {
  MutexLock lock(mutex_);
  if (stopping_ || (order.counts && !queue_.HasRoom(order.client))) return false;
  Add(order, std::move(job));
  return true;
}

bool Dispatcher::Submit(const Order& order, std::function<void()> task) {
  return Submit(order, std::make_shared<Task>(std::move(task)));
}

void Dispatcher::Continue(const Order& order, std::shared_ptr<Job> job) {
  MutexLock lock(mutex_);
  Add(order, std::move(job));
}

void Dispatcher::Add(const Order& order, std::shared_ptr<Job> job) {
  const JobId id{next_id_++};
  const auto deadline = static_cast<uint64_t>(order.deadline.time_since_epoch().count());
  queue_.Push({.id = id,
               .client = order.client,
               .urgency = order.urgency,
               .units = order.units,
               .deadline = deadline,
               .counts = order.counts});
  jobs_.emplace(id, Active{.job = std::move(job), .urgency = order.urgency, .since = Clock::now()});
  active_.store(jobs_.size(), std::memory_order_relaxed);
  Wake(order.urgency);
}

void Dispatcher::Wake(Urgency urgency) {
  // The threads for all classes are the ones to keep free.
  if (decode_.idle > 0 && (decode_.classes & Bit(urgency)) != 0) {
    decode_.wake.NotifyOne();
  } else if (all_.idle > 0) {
    all_.wake.NotifyOne();
  }
}

void Dispatcher::Work(bool decode_only) {
  MutexLock lock(mutex_);
  Crew& crew = decode_only ? decode_ : all_;
  while (true) {
    if (const auto piece = queue_.Next(stopping_ ? ~0u : crew.classes); piece.has_value()) {
      if (!queue_.empty() && all_.idle > 0) all_.wake.NotifyOne();
      RunPiece(*piece);
    } else if (stopping_) {
      return;
    } else {
      ++crew.idle;
      crew.wake.Wait(mutex_);
      --crew.idle;
    }
  }
}

// Lets go of the lock while it is at work.
void Dispatcher::RunPiece(const FairQueue::Piece& piece) {
  Active& active = jobs_.at(piece.job);  // stays where it is until it is erased here
  if (!active.begun) {
    active.begun = true;
    waits_[static_cast<size_t>(active.urgency)].Observe(Clock::now() - active.since);
  }
  if (piece.last) active.queued = false;
  if (active.job->IsGone()) {
    queue_.Remove(piece.job);
    active.queued = false;
  } else {
    ++active.running;
    mutex_.Unlock();
    active.job->Run(piece.first, piece.units);
    mutex_.Lock();
    --active.running;
  }
  if (active.queued || active.running > 0) return;
  std::shared_ptr<Job> job = std::move(active.job);
  jobs_.erase(piece.job);
  active_.store(jobs_.size(), std::memory_order_relaxed);
  mutex_.Unlock();
  job->Done();
  job.reset();  // what it holds may take time to go
  mutex_.Lock();
}

size_t Dispatcher::queued() const {
  MutexLock lock(mutex_);
  return queue_.jobs();
}

std::array<QueueSnapshot, kUrgencies> Dispatcher::Snapshot() const {
  std::array<QueueSnapshot, kUrgencies> snapshot;
  for (size_t i = 0; i < kUrgencies; ++i) snapshot[i].wait_seconds = waits_[i].Snapshot();
  MutexLock lock(mutex_);
  for (size_t i = 0; i < kUrgencies; ++i) {
    snapshot[i].jobs = queue_.jobs(static_cast<Urgency>(i));
    snapshot[i].units = queue_.units(static_cast<Urgency>(i));
  }
  return snapshot;
}

}  // namespace engram
