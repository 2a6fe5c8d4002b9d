// StreamCall: the state machine of one StreamLookup.
//
// Requests are read ahead and answered one at a time, in order: on the calling thread while their
// rows are in memory, else by the dispatcher. At most one read, one write and one request are under
// way; the windows of both directions are bounded.
//
//   read → requests_ → Work → answers_ → write
//
// The stream ends once nothing is under way and nothing is left to do: the client has closed its
// side and has its answers, the daemon drains and has answered what it had read, or the client is
// gone.
//
// gRPC's operations are started with mutex_ held and never after finishing_ is set, so none is
// started on a call that is over. Finish itself is called without the lock, last of all, because
// the object may be gone when it returns.
#ifndef ENGRAM_SERVER_RPC_STREAM_CALL_H_
#define ENGRAM_SERVER_RPC_STREAM_CALL_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "server/lookup/buffer_pool.h"
#include "server/lookup/dispatcher.h"
#include "server/lookup/lookup.h"
#include "server/rpc/call_loop.h"
#include "server/rpc/clients.h"
#include "server/rpc/drive_seat.h"
#include "server/rpc/in_flight.h"
#include "server/tables/tables.h"
#include "storage/base/mutex.h"

namespace engram {

namespace v1 {
class LookupRequest;
}  // namespace v1

class StreamSet;

class StreamCall final : public BidiCall::Reactor {
 public:
  // All outlive the call.
  struct Parts {
    const Tables* tables = nullptr;
    BufferPool* pool = nullptr;
    Dispatcher* dispatcher = nullptr;
    const Clients* clients = nullptr;
    RefusalProbe* refusals = nullptr;
    StreamSet* set = nullptr;
    DriveSeat* seat = nullptr;
    LookupLimits limits = {};
  };
  // Serves `call` with a StreamCall that deletes itself in OnDone. A call without a token has come
  // after the daemon began to drain, and ends at once.
  static void Serve(const Parts& parts, InFlight::Token token, BidiCall& call);

  // Ends the stream as soon as what was read of it is answered.
  void Drain();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  StreamCall(const Parts& parts, InFlight::Token token, BidiCall* call)
      : parts_(parts), token_(std::move(token)), call_(call) {}
  ~StreamCall() = default;

  void Work();
  bool Process(grpc::ByteBuffer buffer);
  // On this thread, reading what is missing.
  void AnswerHere(Lookup& lookup, uint64_t request_id);
  // False when the queue is full.
  bool AnswerLater(std::shared_ptr<Lookup> lookup, uint64_t request_id, bool memory_read,
                   std::optional<Urgency> urgency);
  absl::StatusOr<std::unique_ptr<Lookup>> StartLookup(const v1::LookupRequest& request,
                                                      std::optional<Urgency>& urgency);
  void Send(grpc::ByteBuffer answer);
  void StartNextRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CanWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The status to finish with, once, when the stream has come to its end. The caller releases the
  // lock and passes it to Finish.
  std::optional<grpc::Status> TryEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Parts parts_;
  const InFlight::Token token_;
  BidiCall* const call_;
  std::atomic<bool> gone_{false};  // as broken_, for the dispatcher; relaxed: nothing hangs on it
  Mutex mutex_;
  grpc::ByteBuffer incoming_;  // gRPC's while reading_
  grpc::ByteBuffer outgoing_;  // gRPC's while writing_
  std::deque<grpc::ByteBuffer> requests_ ABSL_GUARDED_BY(mutex_);
  std::deque<grpc::ByteBuffer> answers_ ABSL_GUARDED_BY(mutex_);
  // What is under way.
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  // Why no more is read. Once set, they stay.
  bool read_closed_ ABSL_GUARDED_BY(mutex_) = false;  // the client sends no more
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;     // the daemon takes no more
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;       // the client is gone
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;    // Finish is being called
};

// The streams that are open, for draining them. Thread-safe.
class StreamSet {
 public:
  void Add(StreamCall* call);
  void Remove(StreamCall* call);
  // Drains all streams, and those that are added later.
  void Drain();

 private:
  Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<StreamCall*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_SERVER_RPC_STREAM_CALL_H_
