#include "server/rpc/store_service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engram/v1/store.grpc.pb.h"
#include "server/rpc/attach.h"
#include "server/rpc/call_loop.h"
#include "server/rpc/lookup_codec.h"
#include "server/rpc/table_messages.h"
#include "server/rpc/wire.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// More rows than this are gathered on the executor, so that one large batch does not hold up the
// small ones behind it on the loop's thread. 8,192 rows of 264 bytes take about half a millisecond.
constexpr size_t kInlineRows = 8192;
// So many rows may be read from the drive on the loop's thread, while DriveSeat is free: those of a
// few decoded tokens.
constexpr size_t kInlineColdRows = 256;

// A stream's window: requests read ahead, and answers waiting to be sent.
constexpr size_t kMaxRequestsAhead = 8;
constexpr size_t kMaxAnswersWaiting = 8;

absl::Status Overloaded(const Executor& executor) {
  return absl::ResourceExhaustedError(
      absl::StrCat("overloaded: ", executor.max_queued(),
                   " batches wait for the drive already; try again, or raise max_queued_batches"));
}

absl::Status ShuttingDown() { return absl::UnavailableError("the daemon is shutting down"); }

absl::Status Unreadable(absl::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat("the message cannot be read as engram.v1.", message));
}

// At most one of the loop's threads reads from the drive: to wake one of the executor's takes 30 µs
// or more, and a decoded token's rows some 500. Of several threads there so is always one for rows
// in memory, whatever the drive does. A single one reads only while no other call is under way; one
// that comes meanwhile waits for that read.
class DriveSeat {
 public:
  class Hold {
   public:
    explicit Hold(DriveSeat& seat)
        : seat_(seat.IsFree() && !seat.taken_.exchange(true, std::memory_order_acquire) ? &seat
                                                                                        : nullptr) {
    }
    ~Hold() {
      if (seat_ != nullptr) seat_->taken_.store(false, std::memory_order_release);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    explicit operator bool() const { return seat_ != nullptr; }

   private:
    DriveSeat* const seat_;
  };

  explicit DriveSeat(const CallLoop& loop) : loop_(loop) {}

 private:
  bool IsFree() const { return loop_.threads() > 1 || loop_.calls() == 1; }

  const CallLoop& loop_;
  std::atomic<bool> taken_{false};
};

class StreamSet;

// One StreamLookup. Requests are worked on one at a time and in order: on the calling thread while
// their rows are in memory, else on the executor.
//
// gRPC's operations are started with mutex_ held and never after finishing_ is set, so none can be
// started on a call that is over; Finish itself is called without the lock, last of all, because
// the object may be gone when it returns.
class StreamCall final : public BidiCall::Reactor {
 public:
  StreamCall(const StoreService::Parts& parts, InFlight::Token token, StreamSet* set,
             DriveSeat* seat, BidiCall* call);

  // To be called once, after construction.
  void Begin();
  void Drain();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Work();
  // False when the request was handed to the executor, which calls Work again when it is done.
  bool Process(grpc::ByteBuffer buffer);
  void Answer(Lookup& lookup, uint64_t request_id, bool memory_read);
  void Send(grpc::ByteBuffer answer);
  void StartNextRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CanWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !working_ && !broken_ && !requests_.empty() && answers_.size() < kMaxAnswersWaiting;
  }
  // True when the caller, having let go of the lock, has to call Finish with the status.
  bool ShouldFinish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const StoreService::Parts parts_;
  const InFlight::Token token_;
  StreamSet* const set_;
  DriveSeat* const seat_;
  BidiCall* const call_;
  Mutex mutex_;
  grpc::ByteBuffer incoming_;  // gRPC's while reading_
  grpc::ByteBuffer outgoing_;  // gRPC's while writing_
  std::deque<grpc::ByteBuffer> requests_ ABSL_GUARDED_BY(mutex_);
  std::deque<grpc::ByteBuffer> answers_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_closed_ ABSL_GUARDED_BY(mutex_) = false;  // the client sends no more
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;     // the daemon takes no more
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;       // nobody listens
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
};

// The streams that are open, for draining them.
class StreamSet {
 public:
  void Add(StreamCall* call) {
    MutexLock lock(mutex_);
    calls_.insert(call);
    if (draining_) call->Drain();
  }
  void Remove(StreamCall* call) {
    MutexLock lock(mutex_);
    calls_.erase(call);
  }
  void Drain() {
    MutexLock lock(mutex_);
    draining_ = true;
    // A call removes itself before it is deleted, so those in the set are alive.
    for (StreamCall* call : calls_) call->Drain();
  }

 private:
  Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<StreamCall*> calls_ ABSL_GUARDED_BY(mutex_);
};

StreamCall::StreamCall(const StoreService::Parts& parts, InFlight::Token token, StreamSet* set,
                       DriveSeat* seat, BidiCall* call)
    : parts_(parts), token_(std::move(token)), set_(set), seat_(seat), call_(call) {}

void StreamCall::Begin() {
  {
    MutexLock lock(mutex_);
    StartNextRead();
  }
  set_->Add(this);
}

void StreamCall::StartNextRead() {
  if (reading_ || read_closed_ || draining_ || broken_ || finishing_) return;
  if (requests_.size() >= kMaxRequestsAhead) return;
  reading_ = true;
  call_->StartRead(&incoming_);
}

bool StreamCall::ShouldFinish() {
  if (finishing_ || working_ || writing_) return false;
  const bool answered = requests_.empty() && answers_.empty();
  if (!broken_ && !((read_closed_ || draining_) && answered)) return false;
  finishing_ = true;
  return true;
}

void StreamCall::Drain() {
  bool finish = false;
  {
    MutexLock lock(mutex_);
    draining_ = true;
    finish = ShouldFinish();
  }
  if (finish) call_->Finish(ToGrpc(ShuttingDown()));
}

void StreamCall::OnReadDone(bool ok) {
  bool work = false;
  bool finish = false;
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
      finish = ShouldFinish();
    }
  }
  if (work) Work();
  if (finish) call_->Finish(grpc::Status::OK);
}

void StreamCall::OnWriteDone(bool ok) {
  bool work = false;
  bool finish = false;
  bool drained = false;
  {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) broken_ = true;
    if (!broken_ && !answers_.empty()) {
      outgoing_ = std::move(answers_.front());
      answers_.pop_front();
      writing_ = true;
      call_->StartWrite(&outgoing_);
    }
    work = CanWork();
    if (work) working_ = true;
    finish = !work && ShouldFinish();
    drained = draining_;
  }
  if (work) Work();
  if (finish) call_->Finish(drained ? ToGrpc(ShuttingDown()) : grpc::Status::OK);
}

void StreamCall::OnCancel() {
  bool finish = false;
  {
    MutexLock lock(mutex_);
    broken_ = true;
    finish = ShouldFinish();
  }
  if (finish) call_->Finish(grpc::Status::CANCELLED);
}

void StreamCall::OnDone() {
  set_->Remove(this);
  delete this;
}

// Requires working_, which it gives up before it returns unless the executor goes on with it.
void StreamCall::Work() {
  while (true) {
    grpc::ByteBuffer request;
    bool finish = false;
    bool drained = false;
    {
      MutexLock lock(mutex_);
      working_ = false;
      if (CanWork()) {
        working_ = true;
        request = std::move(requests_.front());
        requests_.pop_front();
        StartNextRead();
      } else {
        finish = ShouldFinish();
        drained = draining_;
        if (!finish) return;
      }
    }
    if (finish) {
      call_->Finish(drained ? ToGrpc(ShuttingDown()) : grpc::Status::OK);
      return;
    }
    if (!Process(std::move(request))) return;
  }
}

bool StreamCall::Process(grpc::ByteBuffer buffer) {
  v1::LookupRequest request;
  uint64_t refused_id = 0;
  if (const absl::Status entries = CheckLayerEntries(buffer, &refused_id); !entries.ok()) {
    Send(EncodeStreamError(entries, refused_id));
    return true;
  }
  if (!Decode(buffer, request)) {
    Send(EncodeStreamError(Unreadable("LookupRequest"), request.request_id()));
    return true;
  }
  const uint64_t request_id = request.request_id();
  absl::StatusOr<std::unique_ptr<Lookup>> started =
      Lookup::Start(*parts_.tables, *parts_.pool, parts_.limits, ToQuery(request));
  if (!started.ok()) {
    Send(EncodeStreamError(started.status(), request_id));
    return true;
  }
  const std::shared_ptr<Lookup> lookup = *std::move(started);
  const bool small = lookup->row_count() <= kInlineRows;
  if (small && lookup->ReadMemory()) {
    Answer(*lookup, request_id, /*memory_read=*/true);
    return true;
  }
  if (small && lookup->cold_rows() <= kInlineColdRows) {
    if (const DriveSeat::Hold hold(*seat_); hold) {
      Answer(*lookup, request_id, /*memory_read=*/true);
      return true;
    }
  }
  const bool submitted = parts_.executor->TrySubmit([this, lookup, request_id, small] {
    Answer(*lookup, request_id, small);
    Work();
  });
  if (!submitted) Send(EncodeStreamError(Overloaded(*parts_.executor), request_id));
  return !submitted;
}

void StreamCall::Answer(Lookup& lookup, uint64_t request_id, bool memory_read) {
  if (!memory_read) lookup.ReadMemory();
  const size_t parts = lookup.parts().size();
  size_t sent = 0;
  // The first layer's rows leave before the second layer's are read.
  for (; sent < parts; ++sent) {
    lookup.ReadPart(sent);
    if (lookup.fails() && !lookup.parts()[sent]->batch.failures().empty()) break;
    Send(EncodeStreamPart(lookup, sent, request_id, sent + 1 == parts));
  }
  const absl::Status status = lookup.Finish();
  if (sent < parts) Send(EncodeStreamError(status, request_id));
  lookup.Warm();
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

// Every method is raw: generated code that cannot parse a message answers without saying what is
// wrong with it.
using BaseService =
    v1::EngramStore::WithRawMethod_Lookup<v1::EngramStore::WithRawMethod_StreamLookup<
        v1::EngramStore::WithRawMethod_Describe<v1::EngramStore::WithRawMethod_Prefetch<
            v1::EngramStore::WithRawMethod_Attach<v1::EngramStore::Service>>>>>;

class StoreServiceImpl final : public StoreService, private BaseService {
 public:
  explicit StoreServiceImpl(const Parts& parts) : parts_(parts) {}

  grpc::Service* service() override { return this; }
  void Accept(CallLoop& loop) override {
    seat_.emplace(loop);
    loop.AcceptUnary([this](auto... call) { RequestLookup(call...); },
                     [this](UnaryCall& call) {
                       if (const absl::Status status = AnswerLookup(call); !status.ok()) {
                         call.Finish(ToGrpc(status));
                       }
                     });
    loop.AcceptStreams([this](auto... call) { RequestStreamLookup(call...); },
                       [this](BidiCall& call) { AnswerStream(call); });
    loop.AcceptUnary([this](auto... call) { RequestDescribe(call...); },
                     [this](UnaryCall& call) {
                       call.Finish(ToGrpc(AnswerDescribe(call.request(), call.response())));
                     });
    loop.AcceptUnary([this](auto... call) { RequestPrefetch(call...); },
                     [this](UnaryCall& call) {
                       call.Finish(ToGrpc(AnswerPrefetch(call.request(), call.response())));
                     });
    loop.AcceptUnary([this](auto... call) { RequestAttach(call...); },
                     [this](UnaryCall& call) {
                       call.Finish(ToGrpc(AnswerAttach(call.request(), call.response())));
                     });
  }
  void Drain() override { streams_.Drain(); }

 private:
  absl::Status AnswerDescribe(const grpc::ByteBuffer& buffer, grpc::ByteBuffer& response) {
    v1::DescribeRequest request;
    if (!Decode(buffer, request)) return Unreadable("DescribeRequest");
    ENGRAM_ASSIGN_OR_RETURN(const std::shared_ptr<const OpenTable> table,
                            parts_.tables->Find(request.table(), VersionId{request.version()}));
    v1::DescribeResponse answer;
    *answer.mutable_table() = ToTableInfo(table->record, *parts_.tables->store());
    // The record says what was active when the version was opened.
    const auto active = parts_.tables->Find(request.table(), kActiveVersion);
    answer.mutable_table()->set_active(active.ok() && *active == table);
    if (request.want_token_map() && table->token_map.has_value()) {
      answer.set_token_map(std::string(table->token_map->bytes()));
    }
    response = Encode(answer);
    return absl::OkStatus();
  }

  absl::Status AnswerPrefetch(const grpc::ByteBuffer& buffer, grpc::ByteBuffer& response) {
    v1::PrefetchRequest request;
    ENGRAM_RETURN_IF_ERROR(CheckLayerEntries(buffer));
    if (!Decode(buffer, request)) return Unreadable("PrefetchRequest");
    ENGRAM_ASSIGN_OR_RETURN(const Prefetcher::Result result,
                            parts_.prefetcher->Prefetch(ToQuery(request)));
    v1::PrefetchResponse answer;
    answer.set_accepted(result.accepted);
    answer.set_skipped(result.skipped);
    response = Encode(answer);
    return absl::OkStatus();
  }

  absl::Status AnswerAttach(const grpc::ByteBuffer& buffer, grpc::ByteBuffer& response) {
    v1::AttachRequest request;
    if (!Decode(buffer, request)) return Unreadable("AttachRequest");
    ENGRAM_ASSIGN_OR_RETURN(const v1::AttachResponse answer,
                            DescribeSharedDram(*parts_.tables, parts_.sharing, request));
    response = Encode(answer);
    return absl::OkStatus();
  }

  // Finishes the call, now or later, unless it returns an error.
  absl::Status AnswerLookup(UnaryCall& call) {
    InFlight::Token token = parts_.in_flight->Enter();
    if (token == nullptr) return ShuttingDown();
    v1::LookupRequest request;
    ENGRAM_RETURN_IF_ERROR(CheckLayerEntries(call.request()));
    if (!Decode(call.request(), request)) return Unreadable("LookupRequest");
    ENGRAM_ASSIGN_OR_RETURN(
        std::unique_ptr<engram::Lookup> started,
        engram::Lookup::Start(*parts_.tables, *parts_.pool, parts_.limits, ToQuery(request)));
    const std::shared_ptr<engram::Lookup> lookup = std::move(started);
    const bool small = lookup->row_count() <= kInlineRows;
    if (small && lookup->ReadMemory()) {
      Reply(*lookup, call);
      return absl::OkStatus();
    }
    if (small && ReadHere(*lookup)) {
      Reply(*lookup, call);
      // gRPC sends the answer when this thread is given back to it. With a full queue the rows stay
      // cold.
      if (lookup->CanWarm()) {
        parts_.executor->TrySubmit([lookup, token = std::move(token)] { lookup->Warm(); });
      }
      return absl::OkStatus();
    }
    const bool submitted =
        parts_.executor->TrySubmit([lookup, small, &call, token = std::move(token)] {
          if (small || !lookup->ReadMemory()) lookup->ReadStorage();
          Reply(*lookup, call);
          lookup->Warm();
        });
    return submitted ? absl::OkStatus() : Overloaded(*parts_.executor);
  }

  // False when the drive is to be left to another thread.
  bool ReadHere(engram::Lookup& lookup) {
    if (lookup.cold_rows() > kInlineColdRows) return false;
    const DriveSeat::Hold hold(*seat_);
    if (hold) lookup.ReadStorage();
    return static_cast<bool>(hold);
  }

  // The call may not be used afterwards.
  static void Reply(engram::Lookup& lookup, UnaryCall& call) {
    const absl::Status status = lookup.Finish();
    if (status.ok()) call.response() = EncodeLookupResponse(lookup);
    call.Finish(ToGrpc(status));
  }

  void AnswerStream(BidiCall& call) {
    // A stream that comes too late has no token and is ended by Drain. Deletes itself in OnDone.
    InFlight::Token token = parts_.in_flight->Enter();
    const bool late = token == nullptr;
    auto* stream = new StreamCall(parts_, std::move(token), &streams_, &*seat_, &call);
    call.SetReactor(stream);
    stream->Begin();
    if (late) stream->Drain();
  }

  const Parts parts_;
  std::optional<DriveSeat> seat_;  // from Accept on
  StreamSet streams_;
};

}  // namespace

std::unique_ptr<StoreService> StoreService::Create(Parts parts) {
  return std::make_unique<StoreServiceImpl>(parts);
}

}  // namespace engram
