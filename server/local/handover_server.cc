#include "server/local/handover_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/sockios.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/local/client_telemetry.h"
#include "server/placement/hbm_cache.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"
#include "storage/dram/handover.h"

namespace engram {
namespace {

using dram::HandoverKind;
using dram::HandoverReply;
using dram::HandoverRequest;
using dram::HandoverStatus;

// How often clients' rings are read. A ring holds the samples of some 60,000 rows.
constexpr std::chrono::milliseconds kRingPeriod{20};
// How long no connection is accepted once there was no descriptor for one.
constexpr std::chrono::milliseconds kAcceptPause{1000};
constexpr int kEventsAtOnce = 64;
constexpr int kBacklog = 128;
// The kernel makes it as small as it can: a client that does not read holds few descriptors.
constexpr int kSendBuffer = 1;

std::string ErrorText() { return std::strerror(errno); }

}  // namespace

// One attached client.
struct HandoverServer::Connection {
  Connection(UniqueFd socket_in, uid_t user_in) : socket(std::move(socket_in)), user(user_in) {}

  const UniqueFd socket;
  const uid_t user;
  std::unique_ptr<ClientTelemetry> telemetry;  // from Hello on
  bool may_write = false;                      // has got DRAM's memory writable
};

HandoverServer::HandoverServer(const Options& options) : options_(options) {}

HandoverServer::~HandoverServer() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof(one));
    thread_.join();
  }
  for (const std::string& path : paths_) ::unlink(path.c_str());
}

absl::Status HandoverServer::Begin() {
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !stop_.valid()) {
    return absl::UnavailableError(absl::StrCat("epoll: ", ErrorText()));
  }
  ENGRAM_RETURN_IF_ERROR(Watch(stop_.get()));
  for (const std::string& path : options_.grpc_sockets) {
    ENGRAM_RETURN_IF_ERROR(Listen(absl::StrCat(path, dram::kHandoverSuffix)));
  }
  thread_ = std::thread([this] { Serve(); });
  return absl::OkStatus();
}

absl::Status HandoverServer::Watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("epoll: ", ErrorText()));
}

// The gRPC socket beside it is ours already, so whatever lies at the path is a dead daemon's.
absl::Status HandoverServer::Listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", path, ": a socket's path has at most ",
                     sizeof(address.sun_path) - 1, " bytes; give a shorter listen address"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  ::unlink(path.c_str());
  if (!listener.valid() ||
      ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      ::chmod(path.c_str(), 0660) != 0 || ::listen(listener.get(), kBacklog) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", path, ": ", ErrorText()));
  }
  paths_.push_back(path);
  ENGRAM_RETURN_IF_ERROR(Watch(listener.get()));
  const int fd = listener.get();
  listeners_[fd] = std::move(listener);
  return absl::OkStatus();
}

int HandoverServer::TimeoutMs() const {
  if (clients() > 0) return static_cast<int>(kRingPeriod.count());
  // Without clients there are no rings to read.
  return listen_at_.has_value() ? static_cast<int>(kAcceptPause.count()) : -1;
}

// Epoll goes on reporting a connection that cannot be accepted, so it is not watched for a while.
void HandoverServer::ListenAgain(bool listen) {
  for (const auto& [fd, listener] : listeners_) {
    epoll_event event{};
    if (listen) event.events = EPOLLIN;
    event.data.fd = fd;
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
  }
  listen_at_.reset();
  if (!listen) listen_at_ = std::chrono::steady_clock::now() + kAcceptPause;
}

void HandoverServer::Serve() {
  auto next_read = std::chrono::steady_clock::now() + kRingPeriod;
  while (true) {
    std::array<epoll_event, kEventsAtOnce> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsAtOnce, TimeoutMs());
    if (listen_at_.has_value() && std::chrono::steady_clock::now() >= *listen_at_) {
      ListenAgain(true);
    }
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == stop_.get()) return ReadTelemetry();
    }
    MutexLock lock(mutex_);
    if (count > 0) HandleEvents(events.data(), count);
    if (std::chrono::steady_clock::now() >= next_read) {
      ReadRings();
      CutOffExcess();
      next_read = std::chrono::steady_clock::now() + kRingPeriod;
    }
  }
}

// Rings lie within the DRAM budget.
size_t HandoverServer::MaxClients() const {
  const uint64_t rings = options_.tables->dram_bytes_for_rings() / dram::kRingBytes;
  return std::min<uint64_t>(options_.max_clients, rings);
}

// Clients that there is no room for any more go on over gRPC.
void HandoverServer::CutOffExcess() {
  while (clients_.size() > MaxClients()) clients_.erase(std::prev(clients_.end()));
}

void HandoverServer::HandleEvents(const epoll_event* events, int count) {
  for (int i = 0; i < count; ++i) {
    const int fd = events[i].data.fd;
    if (listeners_.contains(fd)) {
      Accept(fd);
      continue;
    }
    const auto client = clients_.find(fd);
    if (client == clients_.end()) continue;
    if ((events[i].events & EPOLLIN) != 0 && Answer(*client->second)) continue;
    ReadRing(*client->second);
    clients_.erase(client);
  }
}

void HandoverServer::Accept(int listener) {
  UniqueFd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.valid()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      ENGRAM_LOG(kWarning) << "cannot take a client that asks for shared memory: " << ErrorText();
      ListenAgain(false);
    }
    return;
  }
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return;
  size_t of_user = 0;
  for (const auto& [fd, client] : clients_) of_user += client->user == peer.uid;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof(kSendBuffer));
  const int fd = socket.get();
  auto client = std::make_unique<Connection>(std::move(socket), peer.uid);
  // However few places there are, one user leaves half of them to others.
  const size_t places = MaxClients();
  const size_t of_one = std::min(options_.max_clients_per_user, std::max<size_t>(1, places / 2));
  if (clients_.size() >= places || of_user >= of_one) {
    HandoverReply reply;
    reply.status = HandoverStatus::kTooManyClients;
    (void)Send(*client, reply, {});
    return;
  }
  if (Watch(fd).ok()) clients_[fd] = std::move(client);
}

// False when the client is to be cut off.
bool HandoverServer::Answer(Connection& client) {
  HandoverRequest request;
  const ssize_t size =
      ::recv(client.socket.get(), &request, sizeof(request), MSG_DONTWAIT | MSG_TRUNC);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (size != sizeof(request) || request.magic != dram::kHandoverMagic) return false;
  // A client that asks before it has read the last answer piles up descriptors.
  int unread = 0;
  if (::ioctl(client.socket.get(), SIOCOUTQ, &unread) != 0 || unread > 0) return false;
  if (request.kind == HandoverKind::kHello) return AnswerHello(client, request);
  if (request.kind == HandoverKind::kSegments || request.kind == HandoverKind::kWritableSegments) {
    return AnswerSegments(client, request);
  }
  if (request.kind == HandoverKind::kArena) return AnswerArena(client);
  return false;
}

bool HandoverServer::AnswerHello(Connection& client, const HandoverRequest& request) {
  HandoverReply reply;
  if (request.layout_version != dram::kLayoutVersion) {
    reply.status = HandoverStatus::kOtherLayout;
    (void)Send(client, reply, {});
    return false;
  }
  if (client.telemetry != nullptr) return false;
  client.telemetry = ClientTelemetry::Create();
  if (client.telemetry == nullptr) return false;
  return Send(client, reply, {options_.tables->segments().control_fd(), client.telemetry->file()});
}

bool HandoverServer::AnswerSegments(Connection& client, const HandoverRequest& request) {
  HandoverReply reply;
  reply.kind = request.kind;
  const bool writable = request.kind == HandoverKind::kWritableSegments;
  if (client.telemetry == nullptr || request.count == 0 || request.count > dram::kSegmentsAtOnce) {
    return false;
  }
  if (writable && !options_.writable_dram) {
    reply.status = HandoverStatus::kRefused;
    return Send(client, reply, {});
  }
  // Held until they are sent: the kernel has them from then on.
  std::vector<UniqueFd> opened;
  std::vector<std::shared_ptr<Segment>> segments;
  std::vector<int> descriptors;
  for (uint32_t i = 0; i < request.count; ++i) {
    if (writable) {
      opened.push_back(options_.tables->segments().OpenWritable(request.ids[i]));
      descriptors.push_back(opened.back().get());
    } else {
      segments.push_back(options_.tables->segments().Find(request.ids[i]));
      descriptors.push_back(segments.back() == nullptr ? -1 : segments.back()->share_fd());
    }
    if (descriptors.back() < 0) {
      reply.status = HandoverStatus::kGone;
      return Send(client, reply, {});
    }
  }
  if (writable) client.may_write = true;
  return Send(client, reply, descriptors);
}

bool HandoverServer::AnswerArena(Connection& client) {
  if (client.telemetry == nullptr) return false;
  HandoverReply reply;
  reply.kind = HandoverKind::kArena;
  const HbmCache* const hbm = options_.hbm;
  const UniqueFd arena = hbm == nullptr ? UniqueFd() : hbm->ArenaFile();
  if (!arena.valid()) {
    reply.status = HandoverStatus::kGone;
    return Send(client, reply, {});
  }
  return Send(client, reply, {arena.get()});
}

bool HandoverServer::Send(Connection& client, HandoverReply reply,
                          const std::vector<int>& descriptors) {
  reply.layout_version = dram::kLayoutVersion;
  reply.instance = options_.instance;
  reply.count = static_cast<uint32_t>(descriptors.size());
  iovec part{&reply, sizeof(reply)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const size_t bytes = descriptors.size() * sizeof(int);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(dram::kSegmentsAtOnce * sizeof(int))> control{};
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(header), descriptors.data(), bytes);
  }
  return ::sendmsg(client.socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(reply);
}

void HandoverServer::ReadRings() {
  for (const auto& [fd, client] : clients_) ReadRing(*client);
}

void HandoverServer::ReadRing(Connection& client) {
  if (client.telemetry != nullptr) client.telemetry->Read(*options_.tables);
}

size_t HandoverServer::clients() const {
  MutexLock lock(mutex_);
  return clients_.size();
}

size_t HandoverServer::writing_clients() const {
  MutexLock lock(mutex_);
  size_t count = 0;
  for (const auto& [fd, client] : clients_) count += client->may_write;
  return count;
}

void HandoverServer::ReadTelemetry() {
  MutexLock lock(mutex_);
  ReadRings();
}

uint64_t HandoverServer::NewInstance() {
  std::random_device random;
  const uint64_t instance = uint64_t{random()} << 32 | random();
  return instance == 0 ? 1 : instance;
}

absl::StatusOr<std::unique_ptr<HandoverServer>> HandoverServer::Start(const Options& options) {
  std::unique_ptr<HandoverServer> server(new HandoverServer(options));
  ENGRAM_RETURN_IF_ERROR(server->Begin());
  return server;
}

}  // namespace engram
