// Unary calls with raw messages, repeated while the daemon cannot be reached.
//
// Thread-safe. A call that ends with UNAVAILABLE, or that a daemon cancels as it ends, is made
// again, after 10 ms at first and after at most 250 ms later, until its time is up; then the last
// UNAVAILABLE is its result. Only for calls that change nothing. It owns no thread: callbacks run
// on gRPC's.
#ifndef ENGRAM_CLIENT_GRPC_UNARY_CALL_H_
#define ENGRAM_CLIENT_GRPC_UNARY_CALL_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>

#include "absl/status/status.h"

namespace grpc {
class ByteBuffer;
class Channel;
class ClientContext;
class Status;
}  // namespace grpc

namespace engram {

class UnaryCaller {
 public:
  explicit UnaryCaller(std::shared_ptr<grpc::Channel> channel);
  // Cancels asynchronous calls and waits until each `done` has run: never from inside one.
  ~UnaryCaller();
  UnaryCaller(const UnaryCaller&) = delete;
  UnaryCaller& operator=(const UnaryCaller&) = delete;

  // Blocks; spins for up to 400 µs, because most answers out of memory are there by then. After a
  // call whose answer took longer the next 128 sleep at once.
  // `method` is "/package.Service/Method" and must outlive the call.
  absl::Status Call(const char* method, const grpc::ByteBuffer& request,
                    std::chrono::milliseconds timeout, grpc::ByteBuffer* answer);

  // Borrows the answer to `done`, which runs once, on a thread of gRPC's.
  using Done = std::function<void(const absl::Status& status, grpc::ByteBuffer* answer)>;
  void CallAsync(const char* method, const grpc::ByteBuffer& request,
                 std::chrono::milliseconds timeout, Done done);

 private:
  class AsyncCall;
  struct Registry;

  // One attempt.
  grpc::Status CallOnce(const char* method, grpc::ClientContext* context,
                        const grpc::ByteBuffer& request, grpc::ByteBuffer* answer);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::shared_ptr<Registry> registry_;
  std::atomic<int> sleepers_{0};  // relaxed: a guess at what the next calls are like
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_GRPC_UNARY_CALL_H_
