#include "server/daemon/daemon.h"

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config/config.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "engram_daemon_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    directory_ = path;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  Config ConfigListeningOn(const std::string& socket) const {
    Config config;
    config.data_dir = directory_ + "/data";
    config.listen = {"unix:" + socket};
    config.http = "";
    config.dram_bytes = uint64_t{1} << 20;
    config.shared_memory = false;
    return config;
  }

  std::string directory_;
};

TEST_F(DaemonTest, ASecondOneOnTheSameDirectoryIsRefused) {
  Daemon first(ConfigListeningOn(directory_ + "/first"));
  ASSERT_EQ(first.Start(), absl::OkStatus());
  {
    Daemon second(ConfigListeningOn(directory_ + "/second"));
    const absl::Status status = second.Start();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(directory_ + "/data"));
  }
  first.Stop();
}

// The store and the tiers are open by then, and are let go of.
TEST_F(DaemonTest, AStartThatFailsLateLeavesTheDirectoryFree) {
  const std::string socket = directory_ + "/missing/socket";
  {
    Daemon daemon(ConfigListeningOn(socket));
    const absl::Status status = daemon.Start();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(socket));
  }
  std::filesystem::create_directory(directory_ + "/missing");
  Daemon daemon(ConfigListeningOn(socket));
  ASSERT_EQ(daemon.Start(), absl::OkStatus());
  EXPECT_TRUE(std::filesystem::exists(socket));
  daemon.Stop();
}

}  // namespace
}  // namespace engram
