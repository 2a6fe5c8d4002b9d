#include "storage/base/direct_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

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

// Whether the kernel was asked to use huge pages for the mapping that holds `data`.
bool AsksForHugePages(const std::byte* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  std::ifstream maps("/proc/self/smaps");
  bool within = false;
  for (std::string line; std::getline(maps, line);) {
    const size_t dash = line.find('-');
    if (dash != std::string::npos && line.find(' ') > dash &&
        line.find_first_not_of("0123456789abcdef") == dash) {
      within = address >= std::stoull(line, nullptr, 16) &&
               address < std::stoull(line.substr(dash + 1), nullptr, 16);
    } else if (within && line.starts_with("VmFlags:")) {
      return line.find(" hg") != std::string::npos;
    }
  }
  ADD_FAILURE() << "no mapping holds " << static_cast<const void*>(data);
  return false;
}

TEST(DirectMemory, AsksForHugePagesWhereItHasRoomForOne) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) {
    GTEST_SKIP() << "this kernel has no transparent huge pages";
  }
  const DirectMemory large = AllocateDirect(size_t{8} << 20);
  EXPECT_TRUE(AsksForHugePages(large.get()));
  const DirectMemory small = AllocateDirect(size_t{64} << 10);
  EXPECT_FALSE(AsksForHugePages(small.get()));
}

}  // namespace
}  // namespace engram
