#include "server/lookup/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace engram {
namespace {

TEST(BufferPoolTest, GivesAlignedMemoryOfAnySize) {
  BufferPool pool(size_t{64} << 20);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4096}, size_t{4097}, size_t{2162688},
                            size_t{32} << 20, (size_t{32} << 20) + 1, size_t{80} << 20}) {
    const std::shared_ptr<std::byte> buffer = pool.Get(size);
    ASSERT_NE(buffer, nullptr) << size;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.get()) % 64, 0u);
    std::memset(buffer.get(), 0x5A, size);
  }
}

TEST(BufferPoolTest, UsesABufferAgainAndKeepsNoMoreThanItMay) {
  BufferPool pool(8192);
  std::byte* first = nullptr;
  {
    const std::shared_ptr<std::byte> buffer = pool.Get(5000);
    first = buffer.get();
    EXPECT_EQ(pool.kept_bytes(), 0u);
  }
  EXPECT_EQ(pool.kept_bytes(), 8192u);
  const std::shared_ptr<std::byte> again = pool.Get(8000);
  EXPECT_EQ(again.get(), first);
  EXPECT_EQ(pool.kept_bytes(), 0u);
  { pool.Get(16384); }  // larger than what may be kept
  EXPECT_EQ(pool.kept_bytes(), 0u);
}

TEST(BufferPoolTest, NeverGivesOneBufferToTwo) {
  BufferPool pool(size_t{1} << 20);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&pool, t] {
      for (int i = 0; i < 2000; ++i) {
        const std::shared_ptr<std::byte> buffer = pool.Get(4096 << (i % 3));
        std::memset(buffer.get(), t, 4096);
        for (int k = 0; k < 4096; ++k) {
          ASSERT_EQ(buffer.get()[k], static_cast<std::byte>(t));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace engram
