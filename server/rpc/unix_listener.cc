#include "server/rpc/unix_listener.h"

#include <fcntl.h>
#include <grpcpp/server.h>
#include <grpcpp/server_posix.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// What epoll tells: the index of a listening socket, a connection's number, or this.
constexpr uint64_t kStop = UINT64_MAX;
constexpr uint64_t kListening = uint64_t{1} << 63;

// Out of descriptors, say: others have to close theirs first.
constexpr std::chrono::milliseconds kRetry{100};

absl::Status Failed(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path ", path, " is too long: it has ",
                                                   path.size(), " bytes, at most ",
                                                   sizeof(address.sun_path) - 1, " go"));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

// Removes a socket that nobody answers on. To take a live daemon's would cut it off silently, so
// try to connect first.
absl::Status FreePath(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return absl::OkStatus();
  if (!S_ISSOCK(status.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " exists and is not a socket"));
  }
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.valid() &&
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another program answers on unix:", path, ": stop it first"));
  }
  if (::unlink(path.c_str()) != 0) return Failed(absl::StrCat("cannot replace ", path));
  return absl::OkStatus();
}

bool Watch(int epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event{.events = events, .data = {.u64 = data}};
  return ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

UnixListener::~UnixListener() { Stop(); }

absl::Status UnixListener::Listen(const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  ENGRAM_RETURN_IF_ERROR(FreePath(path, address));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failed("socket");
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on unix:", path, ": ",
                                               std::strerror(errno),
                                               " (is its directory there, and writable?)"));
  }
  paths_.push_back(path);
  // Nobody can connect before listen, so nobody does with another mode.
  if (::chmod(path.c_str(), 0660) != 0) return Failed(absl::StrCat("chmod ", path));
  if (::listen(fd.get(), SOMAXCONN) != 0) return Failed(absl::StrCat("listen on unix:", path));
  listening_.push_back(std::move(fd));
  return absl::OkStatus();
}

absl::Status UnixListener::Start(grpc::Server* server) {
  server_ = server;
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!epoll_.valid() || !stop_.valid()) return Failed("epoll");
  if (!Watch(epoll_.get(), stop_.get(), EPOLLIN, kStop)) return Failed("epoll_ctl");
  for (size_t i = 0; i < listening_.size(); ++i) {
    if (!Watch(epoll_.get(), listening_[i].get(), EPOLLIN, kListening | i)) {
      return Failed("epoll_ctl");
    }
  }
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void UnixListener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    thread_.join();
  }
  for (const auto& [number, connection] : connections_) {
    clients_.Remove(connection.fd, connection.client);
  }
  connections_.clear();
  listening_.clear();
  for (const std::string& path : paths_) ::unlink(path.c_str());
  paths_.clear();
}

void UnixListener::Run() {
  std::array<epoll_event, 64> events;
  while (true) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    for (int i = 0; i < count; ++i) {
      const uint64_t data = events[i].data.u64;
      if (data == kStop) return;
      if ((data & kListening) != 0) {
        Accept(listening_[data & ~kListening].get());
      } else {
        Forget(data);
      }
    }
  }
}

void UnixListener::Accept(int listening) {
  UniqueFd fd(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.valid()) return Admit(std::move(fd));
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
  ENGRAM_LOG(kWarning) << "a connection waits: accept: " << std::strerror(errno);
  std::this_thread::sleep_for(kRetry);
}

void UnixListener::Admit(UniqueFd fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return;
  const auto known = of_user_.find(peer.uid);
  const size_t of_user = known == of_user_.end() ? 0 : known->second;
  if (connections_.size() >= limits_.connections || of_user >= limits_.of_user) {
    ENGRAM_LOG(kWarning) << "a connection of user " << peer.uid << " is closed: there are "
                         << connections_.size() << ", " << of_user << " of them the user's";
    return;
  }
  UniqueFd watched(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  const uint64_t number = next_++;
  // No events but the end, which needs no asking for: EPOLLHUP, once both directions are closed.
  if (!watched.valid() || !Watch(epoll_.get(), watched.get(), 0, number)) return;
  const ClientId client = clients_.Add(fd.get(), peer.uid);
  ++of_user_[peer.uid];
  connections_.emplace(number, Connection{std::move(watched), fd.get(), client, peer.uid});
  grpc::AddInsecureChannelFromFd(server_, fd.Release());
}

void UnixListener::Forget(uint64_t number) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  const Connection& connection = found->second;
  clients_.Remove(connection.fd, connection.client);
  if (const auto user = of_user_.find(connection.user); --user->second == 0) of_user_.erase(user);
  connections_.erase(found);
}

}  // namespace engram
