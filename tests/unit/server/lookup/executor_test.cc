#include "server/lookup/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace engram {
namespace {

TEST(ExecutorTest, RunsEveryTaskBeforeItIsGone) {
  std::atomic<int> ran{0};
  {
    Executor executor(3, 1000);
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(executor.TrySubmit([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 500);
}

TEST(ExecutorTest, RefusesWhatIsOverTheBoundAndRunsTheRest) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  std::promise<void> started;
  std::atomic<int> ran{0};
  {
    Executor executor(1, 2);
    ASSERT_TRUE(executor.TrySubmit([&] {
      started.set_value();
      released.wait();
      ++ran;
    }));
    started.get_future().wait();  // the thread is busy, the queue empty
    EXPECT_TRUE(executor.TrySubmit([&] { ++ran; }));
    EXPECT_TRUE(executor.TrySubmit([&] { ++ran; }));
    EXPECT_EQ(executor.queued(), 2u);
    EXPECT_FALSE(executor.TrySubmit([&] { ran += 100; }));
    release.set_value();
  }
  EXPECT_EQ(ran, 3);
}

}  // namespace
}  // namespace engram
