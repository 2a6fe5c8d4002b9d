// AdminClient: what operators ask of a daemon; for engramctl, tests and benchmarks, not installed.
//
// Thread-safe. Every call blocks. `cancel`, where it is not null, is looked at five times a second
// and more: once it is true, the call is cancelled on the daemon too and gives Cancelled. Nothing
// is repeated here: unlike a look-up, these calls change things.
//
// Errors: the daemon's own codes; Unimplemented, with a hint, where admin calls are not served.
#ifndef ENGRAM_CLIENT_GRPC_ADMIN_H_
#define ENGRAM_CLIENT_GRPC_ADMIN_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engram/v1/admin.pb.h"

namespace engram {

class AdminClient {
 public:
  using Cancel = const std::atomic<bool>*;

  // Unavailable, naming the target, when nobody answers within the timeout; InvalidArgument for a
  // bad target.
  static absl::StatusOr<std::unique_ptr<AdminClient>> Connect(
      const std::string& target,
      std::chrono::milliseconds connect_timeout = std::chrono::milliseconds(5000));
  virtual ~AdminClient() = default;

  // Both take as long as they take. `on_progress`, when given, gets each message, the last one
  // (which is also the result) included, on the calling thread. Internal when the daemon's stream
  // ends well but without a message that says `done`.
  virtual absl::StatusOr<v1::LoadProgress> Load(
      const v1::LoadRequest& request,
      const std::function<void(const v1::LoadProgress&)>& on_progress, Cancel cancel = nullptr) = 0;
  virtual absl::StatusOr<v1::VerifyProgress> Verify(
      const v1::VerifyRequest& request,
      const std::function<void(const v1::VerifyProgress&)>& on_progress,
      Cancel cancel = nullptr) = 0;

  // DeadlineExceeded after 30 s; Activate, the drops and SetDramBudget, which touch the disk or
  // much memory, after 10 min.
  virtual absl::StatusOr<v1::ListResponse> List(Cancel cancel = nullptr) = 0;
  virtual absl::StatusOr<v1::StatsResponse> Stats(Cancel cancel = nullptr) = 0;
  virtual absl::Status Activate(const v1::ActivateRequest& request, Cancel cancel = nullptr) = 0;
  virtual absl::StatusOr<v1::DropTableResponse> DropTable(const v1::DropTableRequest& request,
                                                          Cancel cancel = nullptr) = 0;
  virtual absl::Status DropVersion(const v1::DropVersionRequest& request,
                                   Cancel cancel = nullptr) = 0;
  virtual absl::StatusOr<v1::SetDramBudgetResponse> SetDramBudget(
      const v1::SetDramBudgetRequest& request, Cancel cancel = nullptr) = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_ADMIN_H_
