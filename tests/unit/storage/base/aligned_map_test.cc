#include "storage/base/aligned_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "storage/base/unique_fd.h"

namespace engram {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;

uint64_t Remainder(const AlignedMap& map, uint64_t align) {
  return reinterpret_cast<uintptr_t>(map.data()) % align;
}

TEST(AlignedMapTest, LargeMappingsBeginOnAHugePage) {
  for (const uint64_t bytes : {uint64_t{4096}, kHugePage - 4096}) {
    const AlignedMap map = AlignedMap::Map(-1, bytes, PROT_READ | PROT_WRITE);
    ASSERT_TRUE(map.valid());
    EXPECT_EQ(map.bytes(), bytes);
    EXPECT_EQ(Remainder(map, 4096), 0u);
    std::memset(map.data(), 1, bytes);
  }
  for (const uint64_t bytes : {kHugePage, 3 * kHugePage + 4096}) {
    const AlignedMap map = AlignedMap::Map(-1, bytes, PROT_READ | PROT_WRITE);
    ASSERT_TRUE(map.valid());
    EXPECT_EQ(Remainder(map, kHugePage), 0u);
    std::memset(map.data(), 1, bytes);
  }
}

TEST(AlignedMapTest, MappingsOfOneFileShareItsBytes) {
  const UniqueFd file(::memfd_create("aligned_map_test", MFD_CLOEXEC));
  ASSERT_TRUE(file.valid());
  ASSERT_EQ(::ftruncate(file.get(), kHugePage), 0);
  const AlignedMap writer = AlignedMap::Map(file.get(), kHugePage, PROT_READ | PROT_WRITE);
  const AlignedMap reader = AlignedMap::Map(file.get(), kHugePage, PROT_READ);
  ASSERT_TRUE(writer.valid());
  ASSERT_TRUE(reader.valid());
  writer.data()[kHugePage - 1] = std::byte{7};
  EXPECT_EQ(reader.data()[kHugePage - 1], std::byte{7});
}

TEST(AlignedMapTest, SaysWhyItCannotMap) {
  errno = 0;
  EXPECT_FALSE(AlignedMap::Map(-1, ~uint64_t{0} / 4096 * 4096, PROT_READ).valid());
  EXPECT_EQ(errno, ENOMEM);
  errno = 0;
  EXPECT_FALSE(AlignedMap::Map(-1, uint64_t{1} << 60, PROT_READ).valid());
  EXPECT_EQ(errno, ENOMEM);
  // A pipe cannot be mapped.
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd in(ends[0]), out(ends[1]);
  errno = 0;
  EXPECT_FALSE(AlignedMap::Map(in.get(), 4096, PROT_READ).valid());
  EXPECT_NE(errno, 0);
}

TEST(AlignedMapTest, ItsOwnerIsTheLastItWasMovedTo) {
  AlignedMap first = AlignedMap::Map(-1, 4096, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(first.valid());
  std::byte* const data = first.data();
  AlignedMap second = std::move(first);
  EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move): empty by contract
  EXPECT_EQ(second.data(), data);
  AlignedMap third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  third.data()[4095] = std::byte{1};
}

}  // namespace
}  // namespace engram
