#include "server/lookup/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "storage/base/mutex.h"
#include "tests/test_seed.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

// Notes its pieces, and waits in each until it is let on.
class HeldJob final : public Dispatcher::Job {
 public:
  void Run(uint64_t first, uint64_t units) override {
    MutexLock lock(mutex_);
    pieces_.emplace_back(first, units);
    changed_.NotifyAll();
    while (held_) changed_.Wait(mutex_);
  }
  bool IsGone() const override { return gone_; }
  void Done() override {
    MutexLock lock(mutex_);
    ++done_;
    changed_.NotifyAll();
  }

  void Release() {
    MutexLock lock(mutex_);
    held_ = false;
    changed_.NotifyAll();
  }
  void GoAway() { gone_ = true; }
  void AwaitPieces(size_t count) {
    MutexLock lock(mutex_);
    while (pieces_.size() < count) changed_.Wait(mutex_);
  }
  void AwaitDone() {
    MutexLock lock(mutex_);
    while (done_ == 0) changed_.Wait(mutex_);
  }
  std::vector<std::pair<uint64_t, uint64_t>> pieces() {
    MutexLock lock(mutex_);
    return pieces_;
  }
  int done() {
    MutexLock lock(mutex_);
    return done_;
  }

 private:
  std::atomic<bool> gone_{false};
  Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;
  int done_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::pair<uint64_t, uint64_t>> pieces_ ABSL_GUARDED_BY(mutex_);
};

TEST(DispatcherTest, RunsEveryTaskBeforeItIsGone) {
  std::atomic<int> ran{0};
  {
    Dispatcher dispatcher({.threads = 3, .max_queued = 1000});
    for (uint64_t i = 0; i < 500; ++i) {
      ASSERT_TRUE(dispatcher.Submit({.client = ClientId{i}}, [&] { ++ran; }));
    }
  }
  EXPECT_EQ(ran, 500);
}

TEST(DispatcherTest, CutsAJobIntoPiecesAndEndsItOnce) {
  const auto job = std::make_shared<HeldJob>();
  Dispatcher dispatcher({.threads = 1, .piece_units = 10});
  ASSERT_TRUE(dispatcher.Submit({.units = 25}, job));
  job->AwaitPieces(1);
  EXPECT_EQ(job->done(), 0);
  EXPECT_TRUE(dispatcher.busy());
  job->Release();
  job->AwaitDone();
  EXPECT_FALSE(dispatcher.busy());
  EXPECT_THAT(job->pieces(), ElementsAre(Pair(0, 10), Pair(10, 10), Pair(20, 5)));
  EXPECT_EQ(job->done(), 1);
}

TEST(DispatcherTest, SeveralThreadsShareOneJob) {
  const auto job = std::make_shared<HeldJob>();
  Dispatcher dispatcher({.threads = 3, .piece_units = 10});
  ASSERT_TRUE(dispatcher.Submit({.units = 100}, job));
  job->AwaitPieces(3);  // at the same time
  EXPECT_EQ(job->done(), 0);
  job->Release();
  job->AwaitDone();
  EXPECT_EQ(job->pieces().size(), 10u);
}

TEST(DispatcherTest, DecodeWorkHasAThreadWhateverTheOthersDo) {
  const auto large = std::make_shared<HeldJob>();
  const auto small = std::make_shared<HeldJob>();
  Dispatcher dispatcher({.threads = 2, .piece_units = 10});
  ASSERT_TRUE(dispatcher.Submit({.units = 1000}, large));
  large->AwaitPieces(2);  // all threads are held up
  ASSERT_TRUE(dispatcher.Submit({.client = ClientId{2}, .urgency = Urgency::kDecode}, small));
  small->AwaitPieces(1);
  small->Release();
  small->AwaitDone();
  EXPECT_EQ(large->pieces().size(), 2u) << "the thread for decode work took something else";
  large->Release();
}

TEST(DispatcherTest, OfAJobWhoseCallerIsGoneNothingMoreIsBegun) {
  const auto job = std::make_shared<HeldJob>();
  const auto never = std::make_shared<HeldJob>();
  never->GoAway();
  Dispatcher dispatcher({.threads = 1, .piece_units = 10});
  ASSERT_TRUE(dispatcher.Submit({.units = 1000}, job));
  job->AwaitPieces(1);
  ASSERT_TRUE(dispatcher.Submit({.client = ClientId{2}, .units = 1000}, never));
  job->GoAway();
  job->Release();
  job->AwaitDone();
  never->AwaitDone();
  EXPECT_EQ(job->pieces().size(), 1u);
  EXPECT_EQ(never->pieces().size(), 0u);
  EXPECT_EQ(dispatcher.queued(), 0u);
}

TEST(DispatcherTest, RefusesWhatIsOverTheBoundButNotWhatIsBoundedElsewhere) {
  const auto first = std::make_shared<HeldJob>();
  std::atomic<int> ran{0};
  {
    Dispatcher dispatcher({.threads = 1, .max_queued = 4});
    ASSERT_TRUE(dispatcher.Submit({.units = 1}, first));
    first->AwaitPieces(1);  // the thread is busy, the queue empty
    const auto submit = [&](uint64_t client, bool counts = true) {
      return dispatcher.Submit({.client = ClientId{client}, .counts = counts}, [&] { ++ran; });
    };
    EXPECT_TRUE(submit(1));
    EXPECT_TRUE(submit(1));
    EXPECT_FALSE(submit(1)) << "half of the queue is one client's";
    EXPECT_TRUE(submit(2));
    EXPECT_TRUE(submit(3));
    EXPECT_FALSE(submit(4));
    EXPECT_TRUE(submit(4, false));
    EXPECT_EQ(dispatcher.queued(), 5u);
    const QueueSnapshot prefill = dispatcher.Snapshot()[static_cast<size_t>(Urgency::kPrefill)];
    EXPECT_EQ(prefill.jobs, 5u);
    EXPECT_EQ(prefill.units, 5u);
    first->Release();
  }
  EXPECT_EQ(ran, 5);
}

TEST(DispatcherTest, CountsHowLongEachClassWaits) {
  const auto job = std::make_shared<HeldJob>();
  job->Release();
  Dispatcher dispatcher({.threads = 1});
  ASSERT_TRUE(dispatcher.Submit({.urgency = Urgency::kPrefetch, .units = 1000}, job));
  job->AwaitDone();
  const auto queue = dispatcher.Snapshot();
  EXPECT_EQ(queue[static_cast<size_t>(Urgency::kPrefetch)].wait_seconds.count, 1u);
  EXPECT_EQ(queue[static_cast<size_t>(Urgency::kDecode)].wait_seconds.count, 0u);
}

// A job in two stages, as a look-up is; each of its units is to be run once a stage.
class TwoStages final : public Dispatcher::Job, public std::enable_shared_from_this<TwoStages> {
 public:
  TwoStages(Dispatcher* dispatcher, Dispatcher::Order order, std::atomic<int>* left)
      : dispatcher_(*dispatcher), order_(order), left_(*left), runs_(order.units) {}
  void Run(uint64_t first, uint64_t units) override {
    for (uint64_t i = first; i < first + units; ++i) runs_[i].fetch_add(1);
  }
  bool IsGone() const override { return gone_; }
  void Done() override {
    if (++stage_ == 1 && !gone_) return dispatcher_.Continue(order_, shared_from_this());
    const int expected = stage_;
    if (!gone_) {
      for (const std::atomic<int>& runs : runs_) EXPECT_EQ(runs, expected);
    }
    --left_;
  }
  void GoAway() { gone_ = true; }

 private:
  Dispatcher& dispatcher_;
  const Dispatcher::Order order_;
  std::atomic<int>& left_;
  std::vector<std::atomic<int>> runs_;
  std::atomic<bool> gone_{false};
  int stage_ = 0;
};

// To be run under ThreadSanitizer.
TEST(DispatcherTest, EveryJobEndsWhateverComesTogether) {
  constexpr int kSenders = 4;
  constexpr int kJobs = 200;
  const uint64_t seed = TestSeed();
  std::atomic<int> left{0};
  {
    Dispatcher dispatcher({.threads = 3, .max_queued = 100000, .piece_units = 8});
    std::vector<std::thread> senders;
    for (int s = 0; s < kSenders; ++s) {
      senders.emplace_back([&, s] {
        std::mt19937_64 random(seed + s);
        for (int i = 0; i < kJobs; ++i) {
          const Dispatcher::Order order{.client = ClientId{random() % 5},
                                        .urgency = static_cast<Urgency>(random() % kUrgencies),
                                        .units = 1 + random() % 60};
          const auto job = std::make_shared<TwoStages>(&dispatcher, order, &left);
          ++left;
          ASSERT_TRUE(dispatcher.Submit(order, job));
          if (random() % 4 == 0) job->GoAway();
        }
      });
    }
    for (std::thread& sender : senders) sender.join();
  }
  EXPECT_EQ(left, 0);
}

}  // namespace
}  // namespace engram
