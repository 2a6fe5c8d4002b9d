#include "storage/base/direct_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

namespace engram {
namespace {

TEST(DirectMemory, IsAlignedAndAsLargeAsItSays) {
  constexpr size_t kMiB = size_t{1} << 20;
  for (const size_t bytes :
       {size_t{1}, size_t{4096}, size_t{4097}, kMiB, kMiB + 1, 2 * kMiB, 2 * kMiB + 1, 8 * kMiB}) {
    const size_t rounded = RoundUpDirect(bytes);
    EXPECT_GE(rounded, bytes);
    EXPECT_EQ(rounded % kDirectAlignment, 0u);
    EXPECT_LT(rounded - bytes, bytes > kMiB ? 2 * kMiB : kDirectAlignment);
    const DirectMemory memory = AllocateDirect(bytes);
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % kDirectAlignment, 0u);
    std::memset(memory.get(), 0x5A, rounded);  // AddressSanitizer objects if it is not all ours
  }
}

}  // namespace
}  // namespace engram
