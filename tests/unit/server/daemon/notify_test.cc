#include "server/daemon/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "storage/base/unique_fd.h"

namespace engram {
namespace {

// Stands in for systemd: the socket that $NOTIFY_SOCKET names.
class Notify : public ::testing::Test {
 protected:
  Notify() : socket_(::socket(AF_UNIX, SOCK_DGRAM, 0)) {
    std::string name = absl::StrCat(::testing::TempDir(), "engram_notify_XXXXXX");
    directory_ = mkdtemp(name.data());
    const std::string path = absl::StrCat(directory_, "/s");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  ~Notify() override {
    unsetenv("NOTIFY_SOCKET");
    unlink(absl::StrCat(directory_, "/s").c_str());
    rmdir(directory_.c_str());
  }

  std::string Received() {
    char text[512];
    const ssize_t got = ::recv(socket_.get(), text, sizeof(text), MSG_DONTWAIT);
    return got < 0 ? "nothing" : std::string(text, static_cast<size_t>(got));
  }

  UniqueFd socket_;
  std::string directory_;
};

TEST_F(Notify, TellsStateAndStatus) {
  NotifyReady("serving 2 tables");
  EXPECT_EQ(Received(), "READY=1\nSTATUS=serving 2 tables");
  NotifyStopping("");
  EXPECT_EQ(Received(), "STOPPING=1\nSTATUS=");
}

TEST_F(Notify, AStatusCannotHoldAnotherAssignment) {
  NotifyReady("a\nSTOPPING=1");
  EXPECT_EQ(Received(), "READY=1\nSTATUS=a STOPPING=1");
}

TEST_F(Notify, IsSilentWithoutSystemd) {
  unsetenv("NOTIFY_SOCKET");
  NotifyReady("x");
  EXPECT_EQ(Received(), "nothing");
}

}  // namespace
}  // namespace engram
