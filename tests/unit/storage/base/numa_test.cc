// One node is enough to show that the calls say and do what they should; that memory is spread over
// several can only be seen where there are several.
#include "storage/base/numa.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace engram {
namespace {

constexpr size_t kBytes = 1 << 20;

TEST(NumaTest, NamesTheNodesAndPutsMemoryThere) {
  const absl::StatusOr<std::vector<int>> nodes = MemoryNodes();
  if (!nodes.ok()) GTEST_SKIP() << nodes.status();
  ASSERT_FALSE(nodes->empty());
  EXPECT_TRUE(std::is_sorted(nodes->begin(), nodes->end()));
  for (const int node : *nodes) {
    void* const memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    ASSERT_TRUE(PreferNode(memory, kBytes, node));
    static_cast<char*>(memory)[0] = 1;
    EXPECT_EQ(NodeOf(memory), node);
    ::munmap(memory, kBytes);
  }
}

TEST(NumaTest, RefusesNodesThatThereAreNot) {
  if (!MemoryNodes().ok()) GTEST_SKIP() << "the kernel does not say its nodes";
  void* const memory =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  for (const int node : {-1, 1023, 1024, 1 << 20}) {
    EXPECT_FALSE(PreferNode(memory, kBytes, node)) << node;
  }
  ::munmap(memory, kBytes);
  EXPECT_EQ(NodeOf(nullptr), -1);
}

TEST(NumaTest, KnowsWhetherSomebodyHasSaidWhereToTakeMemory) {
  const absl::StatusOr<std::vector<int>> nodes = MemoryNodes();
  if (!nodes.ok() || nodes->front() >= 64) GTEST_SKIP() << "not to be tried here";
  if (HasMemoryPolicy()) GTEST_SKIP() << "this test runs under a policy itself";
  const unsigned long mask = 1ul << nodes->front();
  ASSERT_EQ(::syscall(SYS_set_mempolicy, MPOL_BIND, &mask, 65), 0);
  EXPECT_TRUE(HasMemoryPolicy());
  ASSERT_EQ(::syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0), 0);
  EXPECT_FALSE(HasMemoryPolicy());
}

}  // namespace
}  // namespace engram
