#include "server/http/http.h"

#include <fcntl.h>
#include <httplib.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <deque>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/config/config.h"
#include "server/http/metrics.h"
#include "server/http/status_page.h"
#include "storage/base/log.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"

namespace engram {
namespace {

// A scrape, a health check, and a browser with its idle spare connection, side by side.
constexpr int kThreads = 4;
constexpr size_t kMaxQueued = 64;
constexpr int kBacklog = 128;
constexpr int kTimeoutSeconds = 2;
constexpr size_t kMaxPayload = 4096;

// httplib's own pool queues without a bound. This one makes the accepting thread wait, so that
// further connections wait in the kernel's backlog.
class BoundedPool final : public httplib::TaskQueue {
 public:
  // void or bool, by httplib's version.
  using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue(nullptr));

  BoundedPool() {
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Work(); });
  }

  Enqueued enqueue(std::function<void()> job) override {
    {
      MutexLock lock(mutex_);
      while (jobs_.size() >= kMaxQueued) room_.Wait(mutex_);
      jobs_.push_back(std::move(job));
    }
    work_.NotifyOne();
    return Enqueued(true);
  }

  void shutdown() override {
    {
      MutexLock lock(mutex_);
      closing_ = true;
    }
    work_.NotifyAll();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void Work() {
    for (;;) {
      std::function<void()> job;
      {
        MutexLock lock(mutex_);
        while (jobs_.empty() && !closing_) work_.Wait(mutex_);
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      room_.NotifyOne();
      job();
    }
  }

  Mutex mutex_;
  CondVar work_;
  CondVar room_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

// httplib on a socket that we bound ourselves: its own binding hides the error and sets
// SO_REUSEPORT, by which two daemons would share one port and neither would notice.
class AdoptingServer final : public httplib::Server {
 public:
  void Serve(int listening_socket) {
    svr_sock_ = listening_socket;
    listen_after_bind();
  }
};

absl::StatusOr<UniqueFd> Bind(const std::string& address) {
  ENGRAM_ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  if (!parsed.unix_path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("HTTP cannot listen on ", address, ": give host:port"));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failure =
      getaddrinfo(parsed.host.c_str(), std::to_string(parsed.port).c_str(), &hints, &found);
  if (failure != 0) {
    return absl::InvalidArgumentError(absl::StrCat("HTTP cannot listen on ", address, ": ",
                                                   parsed.host, ": ", gai_strerror(failure)));
  }
  int error = 0;
  UniqueFd bound;
  for (const addrinfo* info = found; info != nullptr && !bound.valid(); info = info->ai_next) {
    UniqueFd fd(::socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC, info->ai_protocol));
    const int yes = 1;
    if (fd.valid() && ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0 &&
        ::bind(fd.get(), info->ai_addr, info->ai_addrlen) == 0 &&
        ::listen(fd.get(), kBacklog) == 0) {
      bound = std::move(fd);
    } else {
      error = errno;
    }
  }
  freeaddrinfo(found);
  if (bound.valid()) return bound;
  return absl::ErrnoToStatus(error, absl::StrCat("HTTP cannot listen on ", address));
}

int PortOf(int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof(name);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return 0;
  if (name.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&name)->sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in*>(&name)->sin_port);
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(UniqueFd socket, std::function<DaemonSnapshot()> snapshot)
      : socket_(std::move(socket)), port_(PortOf(socket_.get())), snapshot_(std::move(snapshot)) {
    server_.new_task_queue = [] { return new BoundedPool; };
    server_.set_keep_alive_max_count(1);
    server_.set_keep_alive_timeout(kTimeoutSeconds);
    server_.set_read_timeout(kTimeoutSeconds);
    server_.set_write_timeout(kTimeoutSeconds);
    server_.set_payload_max_length(kMaxPayload);
    // Before httplib's routing, which would match paths by regular expressions and read bodies.
    server_.set_pre_routing_handler(
        [this](const httplib::Request& request, httplib::Response& response) {
          Answer(request, response);
          return httplib::Server::HandlerResponse::Handled;
        });
    server_.set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
          response.status = 500;
          response.set_content("internal error\n", "text/plain");
        });
    thread_ = std::thread([this] { Serve(); });
  }

  ~Impl() { Stop(); }

  int port() const { return port_; }

  void Stop() {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
    }
    wake_.NotifyAll();
    // Ends the accepting thread's accept, now and for good; httplib then lets its workers finish.
    ::shutdown(socket_.get(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
  }

 private:
  // httplib closes its socket and gives up on any accept error but EMFILE, even one that only says
  // that a caller went away. It gets a duplicate, and another one then.
  void Serve() {
    for (;;) {
      const int duplicate = ::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0);
      if (duplicate >= 0) server_.Serve(duplicate);
      MutexLock lock(mutex_);
      if (stopping_) return;
      ENGRAM_LOG(kWarning) << "HTTP could not accept a connection; trying again";
      wake_.WaitFor(mutex_, std::chrono::milliseconds(200));
      if (stopping_) return;
    }
  }

  void Answer(const httplib::Request& request, httplib::Response& response) const {
    response.status = 200;
    response.set_header("Cache-Control", "no-store");
    response.set_header("X-Content-Type-Options", "nosniff");
    if (request.method != "GET" && request.method != "HEAD") {
      NotFound(request, response);
    } else if (request.path == "/healthz") {
      response.set_content("ok\n", "text/plain");
    } else if (request.path == "/readyz") {
      const bool ready = snapshot_().ready;
      response.status = ready ? 200 : 503;
      response.set_content(ready ? "ready\n" : "not ready\n", "text/plain");
    } else if (request.path == "/metrics") {
      response.set_content(MetricsText(snapshot_()), kMetricsContentType);
    } else if (request.path == "/stats.json") {
      response.set_content(StatsJson(snapshot_()), "application/json");
    } else if (request.path == "/") {
      response.set_header("Content-Security-Policy", kStatusPagePolicy);
      response.set_content(StatusPage(snapshot_()), "text/html; charset=utf-8");
    } else {
      NotFound(request, response);
    }
  }

  static void NotFound(const httplib::Request&, httplib::Response& response) {
    response.status = 404;
    response.set_content(
        "not found; there are GET /, /stats.json, /metrics, /healthz and /readyz\n", "text/plain");
  }

  const UniqueFd socket_;
  const int port_;
  const std::function<DaemonSnapshot()> snapshot_;
  AdoptingServer server_;
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const std::string& address, std::function<DaemonSnapshot()> snapshot) {
  ENGRAM_ASSIGN_OR_RETURN(UniqueFd socket, Bind(address));
  return std::unique_ptr<HttpServer>(
      new HttpServer(std::make_unique<Impl>(std::move(socket), std::move(snapshot))));
}

int HttpServer::port() const { return impl_->port(); }

void HttpServer::Stop() { impl_->Stop(); }

}  // namespace engram
