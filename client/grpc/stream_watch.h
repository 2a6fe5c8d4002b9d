// Cancels a call whose blocking operation takes too long, for gRPC's blocking streams take no
// deadline for a single read or write.
//
// Owned by a stream; looks at the clock every 100 ms, on gRPC's timer thread. Thread-safe.
#ifndef ENGRAM_CLIENT_GRPC_STREAM_WATCH_H_
#define ENGRAM_CLIENT_GRPC_STREAM_WATCH_H_

#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "storage/base/mutex.h"

namespace grpc {
class Alarm;
class ClientContext;
}  // namespace grpc

namespace engram {

class StreamWatch : public std::enable_shared_from_this<StreamWatch> {
 public:
  enum class Operation { kRead, kWrite };

  // Begins to watch. `context` must live until Stop.
  static std::shared_ptr<StreamWatch> Start(grpc::ClientContext* context);
  ~StreamWatch();

  // The operation must be over before `timeout` has passed; Over says that it is.
  void Limit(Operation operation, std::chrono::milliseconds timeout);
  void Over(Operation operation);

  // Whether it had to cancel the call.
  bool expired();

  // The last call: the context is not touched afterwards.
  void Stop();

 private:
  explicit StreamWatch(grpc::ClientContext* context);
  void Arm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Look();

  Mutex mutex_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_);  // null once stopped
  bool expired_ ABSL_GUARDED_BY(mutex_) = false;
  std::array<std::optional<std::chrono::steady_clock::time_point>, 2> due_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_STREAM_WATCH_H_
