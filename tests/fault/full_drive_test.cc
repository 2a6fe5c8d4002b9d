// The real daemon and engramctl on a small file system of their own that gets full.
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/integration/daemon_fixture.h"

namespace engram::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class FullDriveTest : public DaemonFixture {
 protected:
  void SetUp() override {
    fs::create_directory(data());
    if (::mount("none", data().c_str(), "tmpfs", 0, "size=270m") != 0) {
      GTEST_SKIP() << "no file system can be mounted here: " << std::strerror(errno);
    }
    mounted_ = true;
  }
  void TearDown() override {
    StopDaemon();
    if (mounted_) ::umount2(data().c_str(), MNT_DETACH);
  }

  std::string data() const { return dir_.path() + "/data"; }
  uint64_t Free() const {
    struct statvfs info {};
    EXPECT_EQ(::statvfs(data().c_str(), &info), 0);
    return uint64_t{info.f_bfree} * info.f_frsize;
  }
  // Somebody else's file; as large as there is room for, if `bytes` is larger.
  void Fill(const std::string& name, uint64_t bytes) {
    std::ofstream out(data() + "/" + name, std::ios::binary);
    const std::string block(64 << 10, 'x');
    for (uint64_t done = 0; done < bytes && out.good(); done += block.size()) {
      out.write(block.data(), static_cast<std::streamsize>(block.size())).flush();
    }
  }
  CommandResult Ctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--server", daemon_->target()});
    return RunTool("engramctl", arguments);
  }

 private:
  bool mounted_ = false;
};

TEST_F(FullDriveTest, ALoadStopsIsDroppedAndGoesOn) {
  const TestCheckpoint small = MakeCheckpoint("small", 1000, 1);
  const TestCheckpoint large = MakeCheckpoint("large", 60000, 2);  // 127 MB
  StartDaemon();
  ASSERT_TRUE(Load("small", small.directory).ok());
  Fill("ballast", 130 * kMiB);
  const uint64_t before = Free();
  const std::vector<std::string> load = {"load", "large", "--checkpoint", large.directory,
                                         "--json"};
  const auto expect_full = [&] {
    const CommandResult result = Ctl(load);
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.errors, HasSubstr("make room"));
    EXPECT_TRUE(LookupAndCompare(*client_, "small", small, {0, 7, 3999}).ok());
    EXPECT_EQ(client_->Describe("large").status().code(), absl::StatusCode::kNotFound);
  };
  expect_full();
  EXPECT_LT(Free(), before - 10 * kMiB);

  // Even on a drive without a byte left it can be dropped, which gives the space back.
  Fill("rest", UINT64_MAX);
  ASSERT_LT(Free(), kMiB);
  // After a restart, too.
  EXPECT_EQ(daemon_->Terminate(), 0);
  StartDaemon();
  ASSERT_NE(client_, nullptr);
  EXPECT_TRUE(LookupAndCompare(*client_, "small", small, {0, 7, 3999}).ok());
  EXPECT_EQ(Ctl({"activate", "small", "1"}).exit_code, 0);
  const CommandResult dropped = Ctl({"drop", "large", "--all"});
  EXPECT_EQ(dropped.exit_code, 0) << dropped.errors;
  fs::remove(data() + "/rest");
  EXPECT_GT(Free() + 2 * kMiB, before);

  // Once there is room the same command goes on where it stopped.
  expect_full();
  fs::remove(data() + "/ballast");
  const CommandResult resumed = Ctl(load);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.errors;
  EXPECT_GT(nlohmann::json::parse(resumed.output)["resumed_rows"], 0u);
  std::mt19937_64 random(TestSeed());
  EXPECT_TRUE(LookupAndCompare(*client_, "large", large, RandomIds(random, large, 20000)).ok());
  EXPECT_TRUE(LookupAndCompare(*client_, "small", small, {1, 2, 3}).ok());
  EXPECT_EQ(Ctl({"drop", "large", "--all"}).exit_code, 0);
  EXPECT_EQ(Ctl({"drop", "small", "--all"}).exit_code, 0);
  EXPECT_EQ(daemon_->Terminate(), 0);
}

}  // namespace
}  // namespace engram::testing
