#include "storage/base/work_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace engram {
namespace {

TEST(WorkPoolTest, EveryItemOnce) {
  for (const int threads : {0, 1, 3}) {
    WorkPool pool(threads);
    for (const size_t count : {0, 1, 2, 7, 1000}) {
      std::vector<int> seen(count, 0);  // each item is written by one thread only
      pool.Run(count, [&](size_t item) { ++seen[item]; });
      EXPECT_EQ(seen, std::vector<int>(count, 1)) << threads << " threads";
    }
  }
}

TEST(WorkPoolTest, ItemsRunSideBySide) {
  WorkPool pool(1);
  std::atomic<int> arrived{0};
  // Each item waits until the other has begun: one thread alone would never come back.
  pool.Run(2, [&](size_t) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(WorkPoolTest, ManyCallersShareFewThreads) {
  WorkPool pool(2);
  std::atomic<size_t> total{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        size_t mine[16] = {};
        pool.Run(16, [&](size_t item) { mine[item] = item + 1; });
        size_t sum = 0;
        for (const size_t value : mine) sum += value;
        total.fetch_add(sum);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 8u * 200u * 136u);
}

TEST(WorkPoolTest, RunsInsideRun) {
  WorkPool pool(2);
  std::atomic<int> inner{0};
  pool.Run(4, [&](size_t) { pool.Run(4, [&](size_t) { inner.fetch_add(1); }); });
  EXPECT_EQ(inner.load(), 16);
}

}  // namespace
}  // namespace engram
