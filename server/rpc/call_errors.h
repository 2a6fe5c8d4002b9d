// Errors that several calls of the services end with.
#ifndef ENGRAM_SERVER_RPC_CALL_ERRORS_H_
#define ENGRAM_SERVER_RPC_CALL_ERRORS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/lookup/dispatcher.h"

namespace engram {

// ResourceExhausted: the dispatcher's queue, or the caller's part of it, is full.
absl::Status OverloadedError(const Dispatcher& dispatcher);
// Unavailable.
absl::Status ShuttingDownError();
// InvalidArgument: the bytes are no such message ("LookupRequest") of engram.v1.
absl::Status UnreadableError(absl::string_view message);

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_CALL_ERRORS_H_
