// HttpServer: what operators and Prometheus read: /metrics, /healthz, /readyz, the status page (/)
// and its numbers (/stats.json). GET and HEAD only; anything else is 404. No data is served here.
//
// It has threads of its own, few and bounded, so that a flood of HTTP can take nothing from
// lookups but those threads' time. Every connection is closed after one answer, and one that is
// silent for two seconds is dropped. No encryption, no authentication: bind it to an address that
// only operators reach (the default is 127.0.0.1).
#ifndef ENGRAM_SERVER_HTTP_HTTP_H_
#define ENGRAM_SERVER_HTTP_HTTP_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/tables/stats.h"

namespace engram {

class HttpServer {
 public:
  // Listens on `address` (host:port or [ipv6]:port, never a Unix socket; port 0 takes a free one)
  // and serves at once. `snapshot` is called once for each request that needs numbers, from
  // several threads at once, until Stop returns; it must not block on the drive.
  //
  // InvalidArgument: the address is none, or its host has no address. FailedPrecondition: the port
  // is in use. PermissionDenied, Unavailable …: bind's own error. All texts name the address.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const std::string& address, std::function<DaemonSnapshot()> snapshot);
  ~HttpServer();  // stops

  // The port that it listens on.
  int port() const;

  // Answers what is in flight and returns; at most a few seconds. May be called again; not from
  // two threads at once.
  void Stop();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_HTTP_HTTP_H_
