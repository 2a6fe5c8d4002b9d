#include "client/grpc/wire_status.h"

#include "absl/strings/str_cat.h"

namespace engram {

absl::Status StatusFromWire(int code, absl::string_view message) {
  constexpr int kLastCode = static_cast<int>(absl::StatusCode::kUnauthenticated);
  if (code == 0) return absl::OkStatus();
  if (code < 0 || code > kLastCode) {
    return absl::UnknownError(absl::StrCat(message, " (status code ", code, " is not known)"));
  }
  return absl::Status(static_cast<absl::StatusCode>(code), message);
}

}  // namespace engram
