#include "server/rpc/call_errors.h"

#include "absl/strings/str_cat.h"

namespace engram {

absl::Status OverloadedError(const Dispatcher& dispatcher) {
  return absl::ResourceExhaustedError(
      absl::StrCat("overloaded: ", dispatcher.max_queued(),
                   " batches may wait for the drive, half of them of one client, and as many do; "
                   "try again, or raise max_queued_batches"));
}

absl::Status ShuttingDownError() { return absl::UnavailableError("the daemon is shutting down"); }

absl::Status UnreadableError(absl::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat("the message cannot be read as engram.v1.", message));
}

}  // namespace engram
