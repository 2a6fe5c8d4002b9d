#include "client/local/shm_stream.h"

#include <deque>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/grpc/stream.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

class ShmLookupStream : public LookupStream {
 public:
  ShmLookupStream(Transport* rest, GatherShared gather, std::chrono::milliseconds default_timeout)
      : rest_(rest), gather_(std::move(gather)), default_timeout_(default_timeout) {}

  absl::Status Send(const LookupRequest& request) override;
  absl::StatusOr<Event> Receive() override;
  void CloseSend() override {
    MutexLock lock(mutex_);
    closed_ = true;
    changed_.NotifyAll();
  }

 private:
  struct Pending {
    uint64_t sequence = 0;
    LookupRequest request;
    std::chrono::milliseconds timeout{0};
    // Null: the daemon has the whole request.
    std::unique_ptr<ShmBatch> batch;
    size_t next_layer = 0;  // of the batch's, to be received next
    // If anything of it was sent to the daemon: its number there, and an answer that has come.
    std::optional<uint64_t> daemons_sequence;
    std::optional<Event> next_answer;
  };

  absl::Status WaitForRoom(std::chrono::milliseconds timeout);
  absl::StatusOr<uint64_t> SendToDaemon(const LookupRequest& request);
  absl::Status Break(absl::Status status);
  absl::StatusOr<Event> ReceiveFromDaemon(const Pending& pending);
  absl::StatusOr<Event> NextLayer(Pending& pending);
  absl::StatusOr<Event> RetryWhole(Pending& pending);
  void PopFront() {
    MutexLock lock(mutex_);
    pending_.pop_front();
    changed_.NotifyAll();
  }

  Transport* const rest_;
  const GatherShared gather_;
  const std::chrono::milliseconds default_timeout_;
  Mutex mutex_;
  CondVar changed_;
  // Only the receiving thread takes requests out, so the first one stays valid while it works on
  // it.
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  // Made by the sending thread before it queues the first request that needs it, and used by the
  // receiving one for such requests only.
  std::unique_ptr<LookupStream> daemon_;
  uint64_t sent_to_daemon_ = 0;
};

absl::Status ShmLookupStream::WaitForRoom(std::chrono::milliseconds timeout) {
  const Clock::time_point deadline = Clock::now() + timeout;
  MutexLock lock(mutex_);
  while (true) {
    if (closed_) return absl::FailedPreconditionError("Send after CloseSend");
    if (!end_.ok()) {
      return absl::UnavailableError(
          absl::StrCat("the stream to engramd is broken: ", end_.message()));
    }
    if (pending_.size() < kStreamWindow) return absl::OkStatus();
    const auto left = deadline - Clock::now();
    if (left.count() <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(kStreamWindow, " requests are unanswered and none was taken within ",
                       timeout.count(), " ms; receive answers while you send"));
    }
    changed_.WaitFor(mutex_, left);
  }
}

absl::Status ShmLookupStream::Send(const LookupRequest& request) {
  Pending pending{.sequence = 0,
                  .request = request,
                  .timeout = request.deadline.count() == 0 ? default_timeout_ : request.deadline,
                  .batch = std::make_unique<ShmBatch>(),
                  .next_layer = 0,
                  .daemons_sequence = std::nullopt,
                  .next_answer = std::nullopt};
  ENGRAM_RETURN_IF_ERROR(WaitForRoom(pending.timeout));
  if (!gather_(request, pending.timeout, *pending.batch)) {
    pending.batch = nullptr;
    ENGRAM_ASSIGN_OR_RETURN(pending.daemons_sequence, SendToDaemon(request));
  } else if (!pending.batch->complete()) {
    LookupRequest rest = pending.batch->rest();
    rest.deadline = pending.timeout;
    ENGRAM_ASSIGN_OR_RETURN(pending.daemons_sequence, SendToDaemon(rest));
  }
  MutexLock lock(mutex_);
  pending.sequence = next_sequence_++;
  pending_.push_back(std::move(pending));
  changed_.NotifyAll();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ShmLookupStream::SendToDaemon(const LookupRequest& request) {
  if (daemon_ == nullptr) {
    absl::StatusOr<std::unique_ptr<LookupStream>> opened = rest_->OpenStream(default_timeout_);
    if (!opened.ok()) return Break(opened.status());
    daemon_ = *std::move(opened);
  }
  if (const absl::Status sent = daemon_->Send(request); !sent.ok()) return Break(sent);
  return sent_to_daemon_++;
}

// Ends the stream, for the receiver too, unless only the request was wrong.
absl::Status ShmLookupStream::Break(absl::Status status) {
  if (!absl::IsUnavailable(status)) return status;
  MutexLock lock(mutex_);
  end_ = status;
  changed_.NotifyAll();
  return status;
}

absl::StatusOr<LookupStream::Event> ShmLookupStream::Receive() {
  Pending* front = nullptr;
  {
    MutexLock lock(mutex_);
    while (true) {
      if (!end_.ok()) return end_;
      if (!pending_.empty()) break;
      if (closed_) return absl::OutOfRangeError("all requests are answered");
      changed_.Wait(mutex_);
    }
    front = &pending_.front();
  }
  absl::StatusOr<Event> event =
      front->batch == nullptr ? ReceiveFromDaemon(*front) : NextLayer(*front);
  if (!event.ok()) {
    MutexLock lock(mutex_);
    end_ = event.status();
    changed_.NotifyAll();
    return end_;
  }
  event->sequence = front->sequence;
  if (event->last) PopFront();
  return event;
}

absl::StatusOr<LookupStream::Event> ShmLookupStream::ReceiveFromDaemon(const Pending& pending) {
  ENGRAM_ASSIGN_OR_RETURN(Event event, daemon_->Receive());
  if (event.sequence == pending.daemons_sequence) return event;
  return absl::InternalError(absl::StrCat("engramd answered request ", event.sequence,
                                          " on a stream that waits for request ",
                                          *pending.daemons_sequence));
}

// Of a request of which DRAM held some rows.
absl::StatusOr<LookupStream::Event> ShmLookupStream::NextLayer(Pending& pending) {
  ShmBatch& batch = *pending.batch;
  if (pending.next_layer == 0 && pending.daemons_sequence.has_value()) {
    // Its first answer says that the daemon has the version: it will finish on it, and only then
    // may a layer out of DRAM go to the caller.
    ENGRAM_ASSIGN_OR_RETURN(pending.next_answer, ReceiveFromDaemon(pending));
    if (pending.next_answer->last && IsRefusal(pending.next_answer->status))
      return RetryWhole(pending);
  }
  if (!batch.layer_complete(pending.next_layer)) {
    if (!pending.next_answer.has_value()) {
      ENGRAM_ASSIGN_OR_RETURN(pending.next_answer, ReceiveFromDaemon(pending));
    }
    const Event rest = *std::exchange(pending.next_answer, std::nullopt);
    if (!rest.status.ok()) return rest;
    if (rest.version != batch.answer().version || !batch.AddLayer(pending.next_layer, rest.layer) ||
        rest.last != batch.complete_behind(pending.next_layer)) {
      return absl::InternalError(absl::StrCat("engramd's answer to request ", pending.sequence,
                                              " does not fit what was asked for"));
    }
  }
  Event event;
  event.version = batch.answer().version;
  event.layer = std::move(batch.answer().layers[pending.next_layer]);
  ++pending.next_layer;
  event.last = pending.next_layer == batch.answer().layers.size();
  return event;
}

// All of it, in one call; then it goes on as if DRAM had held everything.
absl::StatusOr<LookupStream::Event> ShmLookupStream::RetryWhole(Pending& pending) {
  absl::StatusOr<LookupAnswer> answer = rest_->Lookup(pending.request, pending.timeout);
  if (!answer.ok()) {
    Event event;
    event.last = true;
    event.status = answer.status();
    return event;
  }
  pending.daemons_sequence.reset();
  pending.next_answer.reset();
  pending.batch->Replace(*std::move(answer));
  return NextLayer(pending);
}

}  // namespace

std::unique_ptr<LookupStream> OpenShmStream(Transport* rest, GatherShared gather,
                                            std::chrono::milliseconds default_timeout) {
  return std::make_unique<ShmLookupStream>(rest, std::move(gather), default_timeout);
}

}  // namespace engram
