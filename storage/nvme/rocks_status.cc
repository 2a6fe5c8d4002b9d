#include "storage/nvme/rocks_status.h"

#include <rocksdb/status.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace engram {
namespace {

constexpr absl::string_view kMakeRoom =
    "; make room on the file system of the data directory, then try again";

}  // namespace

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(absl::StrCat(text, kMakeRoom));
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsBusy() || status.IsTryAgain()) return absl::FailedPreconditionError(text);
  if (status.IsIOError() || status.IsTimedOut() || status.IsShutdownInProgress()) {
    return absl::UnavailableError(text);
  }
  return absl::InternalError(text);
}

absl::Status FromErrno(int error, absl::string_view what) {
  const std::string text = absl::StrCat(what, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) {
    return absl::ResourceExhaustedError(absl::StrCat(text, kMakeRoom));
  }
  if (error == ENOENT) return absl::NotFoundError(text);
  return absl::UnavailableError(text);
}

}  // namespace engram
