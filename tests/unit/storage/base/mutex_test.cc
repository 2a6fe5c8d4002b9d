#include "storage/base/mutex.h"

#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace engram {
namespace {

struct Counter {
  Mutex mutex;
  CondVar changed;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(Mutex, ExcludesOtherThreads) {
  Counter counter;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int step = 0; step < 10'000; ++step) {
        MutexLock lock(counter.mutex);
        ++counter.value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, 40'000);
}

TEST(Mutex, CanBeTried) {
  Mutex mutex;
  mutex.Lock();
  bool taken = false;
  const auto take = [&] {
    taken = false;
    if (!mutex.TryLock()) return;
    taken = true;
    mutex.Unlock();
  };
  std::thread(take).join();
  EXPECT_FALSE(taken);
  mutex.Unlock();
  take();
  EXPECT_TRUE(taken);
}

TEST(CondVar, WakesItsWaiters) {
  Counter counter;
  std::vector<std::thread> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] {
      MutexLock lock(counter.mutex);
      while (counter.value == 0) counter.changed.Wait(counter.mutex);
      ++counter.value;
    });
  }
  {
    MutexLock lock(counter.mutex);
    counter.value = 1;
  }
  counter.changed.NotifyAll();
  for (std::thread& waiter : waiters) waiter.join();
  MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, 4);
}

TEST(CondVar, GivesUpWhenTimeIsUpAndHoldsTheMutexAgain) {
  Counter counter;
  MutexLock lock(counter.mutex);
  // Wake-ups may be spurious, so wait until the answer is "time is up".
  while (counter.changed.WaitFor(counter.mutex, std::chrono::milliseconds(1))) {
  }
  counter.value = 5;
  bool taken = true;
  std::thread other([&] { taken = counter.mutex.TryLock(); });
  other.join();
  EXPECT_FALSE(taken);
}

}  // namespace
}  // namespace engram
