#include "server/placement/dram_setup.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

namespace engram {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class DramSetupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = "/dev/shm/engram_setup_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    root_ = path;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = root_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  uint64_t Available() { return AvailableMemory(root_ + "/proc", root_ + "/cgroup"); }

  std::string root_;
};

TEST_F(DramSetupTest, AvailableMemoryIsTheLeastOfHostAndGroups) {
  EXPECT_EQ(Available(), UINT64_MAX);
  Write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4096 kB\n");
  EXPECT_EQ(Available(), 4 * kMiB);
  // Version 2: the group's parents count too, and file pages that can be dropped do not.
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("cgroup/a/b/memory.max", "max\n");
  Write("cgroup/a/b/memory.current", "1000\n");
  EXPECT_EQ(Available(), 4 * kMiB);
  Write("cgroup/a/memory.max", "3145728\n");
  Write("cgroup/a/memory.current", "2097152\n");
  EXPECT_EQ(Available(), kMiB);
  Write("cgroup/a/memory.stat", "anon 5\ninactive_file 524288\nactive_file 524288\nfile 9\n");
  EXPECT_EQ(Available(), 2 * kMiB);
  Write("cgroup/a/memory.current", "9999999\n");
  EXPECT_EQ(Available(), 0u);
  // Version 1.
  Write("proc/self/cgroup", "3:cpu:/x\n4:memory:/m\n");
  EXPECT_EQ(Available(), 4 * kMiB);
  Write("cgroup/memory/m/memory.limit_in_bytes", "2097152");
  Write("cgroup/memory/m/memory.usage_in_bytes", "1048576");
  EXPECT_EQ(Available(), kMiB);
}

TEST_F(DramSetupTest, SharesMemoryWhereItCan) {
  Config config;
  config.data_dir = root_ + "/data";
  config.dram_bytes = kMiB;
  config.shm_dir = root_;
  auto setup = SetUpDram(config);
  ASSERT_TRUE(setup.ok()) << setup.status();
  EXPECT_TRUE(setup->segments->shared());
  EXPECT_EQ(setup->budget_bytes, kMiB);
  EXPECT_EQ(setup->note, "tmpfs " + root_);
  setup->segments.reset();
  config.shared_memory = false;
  setup = SetUpDram(config);
  ASSERT_TRUE(setup.ok()) << setup.status();
  EXPECT_FALSE(setup->segments->shared());
  EXPECT_NE(setup->note.find("shared_memory is false"), std::string::npos) << setup->note;
}

TEST_F(DramSetupTest, ADirectoryThatCannotBeUsedIsAnErrorIfItWasNamed) {
  Config config;
  config.data_dir = root_ + "/data";
  config.dram_bytes = kMiB;
  config.shm_dir = root_ + "/none";
  EXPECT_EQ(SetUpDram(config).status().code(), absl::StatusCode::kNotFound);
  config.shm_dir = ::testing::TempDir();
  EXPECT_EQ(SetUpDram(config).status().code(), absl::StatusCode::kFailedPrecondition);
  config.shm_dir = root_;
  config.dram_bytes = uint64_t{1} << 46;
  const absl::Status full = SetUpDram(config).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(full.message().find("mount a larger one"), std::string::npos) << full;
}

// A budget beyond what the host has: the tier gets what there is, and says so.
TEST_F(DramSetupTest, TakesWhatIsAvailable) {
  Config config;
  config.data_dir = root_ + "/data";
  config.dram_bytes = uint64_t{1} << 46;
  config.shared_memory = false;
  const auto setup = SetUpDram(config);
  ASSERT_TRUE(setup.ok()) << setup.status();
  EXPECT_LT(setup->budget_bytes, AvailableMemory());
  EXPECT_NE(setup->note.find("no more memory is available here"), std::string::npos) << setup->note;
}

// Of a budget that is to change; what the tier has already counts as room for it.
TEST_F(DramSetupTest, KnowsWhetherThereIsRoomForMore) {
  const std::unique_ptr<SegmentStore> segments = SegmentStore::Anonymous();
  EXPECT_TRUE(CheckRoomForDram(*segments, 1 << 20, 0).ok());
  constexpr uint64_t kPetabyte = uint64_t{1} << 50;
  const absl::Status refused = CheckRoomForDram(*segments, kPetabyte, 0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("a dram budget of 1024TiB cannot be had"),
            absl::string_view::npos)
      << refused;
  EXPECT_TRUE(CheckRoomForDram(*segments, kPetabyte, kPetabyte).ok());
}

}  // namespace
}  // namespace engram
