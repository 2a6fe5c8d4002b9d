#include "server/rpc/unix_listener.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class UnixListenerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "listener_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    directory_ = path;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string Path() const { return directory_ + "/socket"; }

  // A connection, or −1.
  UniqueFd Connect() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, Path().c_str());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return UniqueFd();
    }
    return fd;
  }
  // Whether the other side has hung up, or does within 10 s.
  static bool HangsUp(const UniqueFd& fd) {
    const timeval patience{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char bytes[256];
    ssize_t count = 0;
    while ((count = ::recv(fd.get(), bytes, sizeof bytes, 0)) > 0) continue;
    return count == 0;
  }
  // Waits, for 10 s at most.
  bool AwaitConnections(size_t count) const {
    for (int i = 0; i < 1000 && clients_.connections() != count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return clients_.connections() == count;
  }

  // Serves nothing, but connections.
  void StartServer(UnixListener& listener) {
    grpc::ServerBuilder builder;
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    poller_ = std::thread([this] {
      void* tag = nullptr;
      bool ok = false;
      while (queue_->Next(&tag, &ok)) continue;
    });
    ASSERT_TRUE(listener.Start(server_.get()).ok());
  }
  void StopServer() {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    queue_->Shutdown();
    poller_.join();
    server_.reset();
  }

  std::string directory_;
  Clients clients_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::thread poller_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(UnixListenerTest, CountsConnectionsUntilTheyEnd) {
  UnixListener listener(&clients_);
  ASSERT_TRUE(listener.Listen(Path()).ok());
  struct stat status {};
  ASSERT_EQ(::stat(Path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0660u);
  StartServer(listener);
  {
    std::vector<std::shared_ptr<grpc::Channel>> channels;
    for (int i = 0; i < 3; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      channels.push_back(grpc::CreateCustomChannel("unix:" + Path(),
                                                   grpc::InsecureChannelCredentials(), arguments));
      ASSERT_TRUE(channels.back()->WaitForConnected(std::chrono::system_clock::now() +
                                                    std::chrono::seconds(10)));
    }
    EXPECT_TRUE(AwaitConnections(3)) << clients_.connections();
  }
  EXPECT_TRUE(AwaitConnections(0)) << clients_.connections();
  listener.Stop();
  EXPECT_FALSE(std::filesystem::exists(Path()));
  StopServer();
}

TEST_F(UnixListenerTest, ClosesWhatIsOverItsLimits) {
  for (const UnixListener::Limits limits :
       {UnixListener::Limits{.connections = 2, .of_user = 100},
        UnixListener::Limits{.connections = 100, .of_user = 2}}) {
    UnixListener listener(&clients_, limits);
    ASSERT_TRUE(listener.Listen(Path()).ok());
    StartServer(listener);
    UniqueFd first = Connect();
    const UniqueFd second = Connect();
    ASSERT_TRUE(AwaitConnections(2));
    EXPECT_TRUE(HangsUp(Connect()));
    EXPECT_EQ(clients_.connections(), 2u);
    first.Reset();
    ASSERT_TRUE(AwaitConnections(1));
    const UniqueFd third = Connect();
    EXPECT_TRUE(AwaitConnections(2));
    listener.Stop();
    StopServer();
    EXPECT_TRUE(HangsUp(second)) << "the server has gone, and its connections with it";
  }
}

TEST_F(UnixListenerTest, ReplacesASocketThatNobodyAnswersOnAndNothingElse) {
  {
    UnixListener dead(&clients_);
    ASSERT_TRUE(dead.Listen(Path()).ok());
    UnixListener other(&clients_);
    const absl::Status status = other.Listen(Path());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("another program answers on unix:"));
    // As after a crash: the path stays.
    std::filesystem::rename(Path(), Path() + "2");
  }
  std::filesystem::rename(Path() + "2", Path());
  UnixListener listener(&clients_);
  EXPECT_TRUE(listener.Listen(Path()).ok());

  std::ofstream(directory_ + "/file") << "x";
  UnixListener on_file(&clients_);
  const absl::Status file = on_file.Listen(directory_ + "/file");
  EXPECT_EQ(file.code(), absl::StatusCode::kFailedPrecondition) << file;
  EXPECT_THAT(std::string(file.message()), HasSubstr("exists and is not a socket"));
  const absl::Status nowhere = UnixListener(&clients_).Listen(directory_ + "/no/socket");
  EXPECT_EQ(nowhere.code(), absl::StatusCode::kUnavailable) << nowhere;
  EXPECT_THAT(std::string(nowhere.message()), HasSubstr("is its directory there"));
  const absl::Status long_path =
      UnixListener(&clients_).Listen(directory_ + "/" + std::string(120, 'x'));
  EXPECT_EQ(long_path.code(), absl::StatusCode::kInvalidArgument) << long_path;
}

}  // namespace
}  // namespace engram
