#include "server/rpc/stream_call.h"

#include <grpcpp/support/status.h>

#include <memory>
#include <utility>

#include "engram/v1/store.pb.h"
#include "server/lookup/lookup_job.h"
#include "server/rpc/call_errors.h"
#include "server/rpc/lookup_codec.h"
#include "server/rpc/wire.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// A stream's window: requests read ahead, and answers waiting to be sent.
constexpr size_t kMaxRequestsAhead = 8;
constexpr size_t kMaxAnswersWaiting = 8;

}  // namespace

void StreamSet::Add(StreamCall* call) {
  MutexLock lock(mutex_);
  calls_.insert(call);
  if (draining_) call->Drain();
}

void StreamSet::Remove(StreamCall* call) {
  MutexLock lock(mutex_);
  calls_.erase(call);
}

void StreamSet::Drain() {
  MutexLock lock(mutex_);
  draining_ = true;
  // A call removes itself before it is deleted, so those in the set are alive.
  for (StreamCall* call : calls_) call->Drain();
}

void StreamCall::Serve(const Parts& parts, InFlight::Token token, BidiCall& call) {
  const bool late = token == nullptr;
  auto* stream = new StreamCall(parts, std::move(token), &call);
  call.SetReactor(stream);
  {
    MutexLock lock(stream->mutex_);
    stream->StartNextRead();
  }
  // The call lives until the handler has returned (BidiCall), and so does the stream.
  parts.set->Add(stream);
  if (late) stream->Drain();
}

void StreamCall::StartNextRead() {
  if (reading_ || read_closed_ || draining_ || broken_ || finishing_) return;
  if (requests_.size() >= kMaxRequestsAhead) return;
  reading_ = true;
  call_->StartRead(&incoming_);
}

bool StreamCall::CanWork() const {
  return !working_ && !broken_ && !requests_.empty() && answers_.size() < kMaxAnswersWaiting;
}

std::optional<grpc::Status> StreamCall::TryEnd() {
  if (finishing_ || working_ || writing_) return std::nullopt;
  const bool answered = requests_.empty() && answers_.empty();
  if (!broken_ && !((read_closed_ || draining_) && answered)) return std::nullopt;
  finishing_ = true;
  if (broken_) return grpc::Status::CANCELLED;
  return draining_ ? ToGrpc(ShuttingDownError()) : grpc::Status::OK;
}

void StreamCall::Drain() {
  std::optional<grpc::Status> end;
  {
    MutexLock lock(mutex_);
    draining_ = true;
    end = TryEnd();
  }
  if (end.has_value()) call_->Finish(*end);
}

void StreamCall::OnReadDone(bool ok) {
  bool work = false;
  std::optional<grpc::Status> end;
  {
    MutexLock lock(mutex_);
    reading_ = false;
    if (ok) {
      requests_.push_back(std::exchange(incoming_, grpc::ByteBuffer()));
      StartNextRead();
      work = CanWork() && !finishing_;
      if (work) working_ = true;
    } else {
      read_closed_ = true;
      end = TryEnd();
    }
  }
  if (work) Work();
  if (end.has_value()) call_->Finish(*end);
}

void StreamCall::OnWriteDone(bool ok) {
  bool work = false;
  std::optional<grpc::Status> end;
  {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      gone_.store(true, std::memory_order_relaxed);
    }
    if (!broken_ && !answers_.empty()) {
      outgoing_ = std::move(answers_.front());
      answers_.pop_front();
      writing_ = true;
      call_->StartWrite(&outgoing_);
    }
    work = CanWork();
    if (work) {
      working_ = true;
    } else {
      end = TryEnd();
    }
  }
  if (work) Work();
  if (end.has_value()) call_->Finish(*end);
}

void StreamCall::OnCancel() {
  std::optional<grpc::Status> end;
  {
    MutexLock lock(mutex_);
    broken_ = true;
    gone_.store(true, std::memory_order_relaxed);
    end = TryEnd();
  }
  if (end.has_value()) call_->Finish(*end);
}

void StreamCall::OnDone() {
  parts_.set->Remove(this);
  delete this;
}

// Requires working_, which it gives up before it returns unless the dispatcher goes on with it.
void StreamCall::Work() {
  while (true) {
    grpc::ByteBuffer request;
    std::optional<grpc::Status> end;
    {
      MutexLock lock(mutex_);
      working_ = false;
      if (CanWork()) {
        working_ = true;
        request = std::move(requests_.front());
        requests_.pop_front();
        StartNextRead();
      } else {
        end = TryEnd();
        if (!end.has_value()) return;
      }
    }
    if (end.has_value()) {
      call_->Finish(*end);
      return;
    }
    if (!Process(std::move(request))) return;
  }
}

// False when the request was handed to the dispatcher, which calls Work again when it is done.
bool StreamCall::Process(grpc::ByteBuffer buffer) {
  v1::LookupRequest request;
  uint64_t refused_id = 0;
  if (const absl::Status refused = CheckEncodedRequest(buffer, &refused_id); !refused.ok()) {
    Send(EncodeStreamError(refused, refused_id));
    return true;
  }
  if (!Decode(buffer, request)) {
    Send(EncodeStreamError(UnreadableError("LookupRequest"), request.request_id()));
    return true;
  }
  const uint64_t request_id = request.request_id();
  std::optional<Urgency> urgency;
  absl::StatusOr<std::unique_ptr<Lookup>> started = StartLookup(request, urgency);
  if (!started.ok()) {
    Send(EncodeStreamError(started.status(), request_id));
    return true;
  }
  const std::shared_ptr<Lookup> lookup = *std::move(started);
  const bool small = lookup->row_count() <= kInlineRows;
  if (small && lookup->ReadMemory()) {
    AnswerHere(*lookup, request_id);
    return true;
  }
  if (small && lookup->cold_rows() <= kInlineColdRows) {
    if (const DriveSeat::Hold hold(*parts_.seat); hold) {
      lookup->ReadStorage();
      AnswerHere(*lookup, request_id);
      return true;
    }
  }
  if (AnswerLater(lookup, request_id, /*memory_read=*/small, urgency)) return false;
  parts_.refusals->Count(Refusal::kQueueFull);
  Send(EncodeStreamError(OverloadedError(*parts_.dispatcher), request_id));
  return true;
}

absl::StatusOr<std::unique_ptr<Lookup>> StreamCall::StartLookup(const v1::LookupRequest& request,
                                                                std::optional<Urgency>& urgency) {
  ENGRAM_RETURN_IF_ERROR(CheckPolicy(request));
  ENGRAM_ASSIGN_OR_RETURN(urgency, ToUrgency(request.urgency()));
  absl::StatusOr<std::unique_ptr<Lookup>> started =
      Lookup::Start(*parts_.tables, *parts_.pool, parts_.limits, ToQuery(request));
  if (absl::IsResourceExhausted(started.status())) parts_.refusals->Count(Refusal::kTooLarge);
  return started;
}

void StreamCall::AnswerHere(Lookup& lookup, uint64_t request_id) {
  const absl::Status status = lookup.Finish();
  const size_t parts = lookup.parts().size();
  for (size_t i = 0; i < parts; ++i) {
    if (lookup.fails() && !lookup.parts()[i]->batch.failures().empty()) break;
    Send(EncodeStreamPart(lookup, i, request_id, i + 1 == parts));
  }
  if (!status.ok()) Send(EncodeStreamError(status, request_id));
  lookup.Warm();
}

bool StreamCall::AnswerLater(std::shared_ptr<Lookup> lookup, uint64_t request_id, bool memory_read,
                             std::optional<Urgency> urgency) {
  LookupJob::Caller caller{
      .client = parts_.clients->Of(call_->peer()),
      .urgency = urgency,
      .deadline = ToSteady(call_->deadline()),
      .is_gone = [this] { return gone_.load(std::memory_order_relaxed); },
      .on_part =
          [this, lookup, request_id](size_t part) {
            Send(EncodeStreamPart(*lookup, part, request_id, part + 1 == lookup->parts().size()));
          },
      .on_done =
          [this, request_id](const absl::Status& status) {
            if (!status.ok()) Send(EncodeStreamError(status, request_id));
            Work();
          }};
  return LookupJob::Submit(*parts_.dispatcher, std::move(lookup), memory_read, std::move(caller));
}

void StreamCall::Send(grpc::ByteBuffer answer) {
  MutexLock lock(mutex_);
  if (broken_ || finishing_) return;
  if (writing_) {
    answers_.push_back(std::move(answer));
    return;
  }
  outgoing_ = std::move(answer);
  writing_ = true;
  call_->StartWrite(&outgoing_);
}

}  // namespace engram
