#include "client/grpc/target.h"

#include <sys/un.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace engram {
namespace {

// One byte of sun_path is its terminating zero.
constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

absl::Status Bad(absl::string_view target, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("bad address \"", target, "\": ", why, "; give unix:/path or host:port"));
}

std::string Escape(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || absl::StrContains("/-._~:", c)) {
      escaped += c;
    } else {
      absl::StrAppendFormat(&escaped, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return escaped;
}

absl::StatusOr<std::string> UnixTarget(absl::string_view target, absl::string_view path) {
  if (!absl::StartsWith(path, "/")) return Bad(target, "the path of the socket must be absolute");
  if (path.size() > kMaxSocketPath) {
    return Bad(target, absl::StrCat("the path has ", path.size(), " bytes, a socket's holds ",
                                    kMaxSocketPath));
  }
  if (absl::StrContains(path, '\0')) return Bad(target, "the path has a zero byte");
  return absl::StrCat("unix:", Escape(path));
}

}  // namespace

absl::StatusOr<std::string> GrpcTarget(absl::string_view target) {
  if (target.empty()) return Bad(target, "it is empty");
  absl::string_view path = target;
  if (absl::ConsumePrefix(&path, "unix:")) return UnixTarget(target, path);

  const size_t colon = target.rfind(':');
  if (colon == absl::string_view::npos) return Bad(target, "there is no port");
  const absl::string_view host = target.substr(0, colon);
  const absl::string_view port = target.substr(colon + 1);
  uint32_t number = 0;
  const bool digits = port.find_first_not_of("0123456789") == absl::string_view::npos;
  if (!digits || !absl::SimpleAtoi(port, &number) || number == 0 || number > 65535) {
    return Bad(target, absl::StrCat("\"", port, "\" is not a port (1 to 65535)"));
  }
  if (host.empty()) return Bad(target, "there is no host");
  const bool bracketed = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
  const absl::string_view name = bracketed ? host.substr(1, host.size() - 2) : host;
  const char* allowed = bracketed ? "0123456789abcdefABCDEF:.%" : "-._";
  for (const char c : name) {
    const bool alnum = absl::ascii_isalnum(static_cast<unsigned char>(c));
    if (!absl::StrContains(allowed, c) && !alnum) {
      return Bad(target, absl::StrCat("\"", host, "\" is not a host; an IPv6 address needs [ ]"));
    }
  }
  if (name.empty()) return Bad(target, "there is no host");
  return absl::StrCat("dns:///", Escape(host), ":", port);
}

}  // namespace engram
