#include "server/rpc/store_service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <optional>
#include <utility>

#include "engram/v1/store.grpc.pb.h"
#include "server/lookup/lookup_job.h"
#include "server/rpc/attach.h"
#include "server/rpc/call_errors.h"
#include "server/rpc/call_loop.h"
#include "server/rpc/drive_seat.h"
#include "server/rpc/lookup_codec.h"
#include "server/rpc/stream_call.h"
#include "server/rpc/table_messages.h"
#include "server/rpc/wire.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

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
    seat_.emplace(loop, *parts_.dispatcher);
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
                     [this](UnaryCall& call) { call.Finish(ToGrpc(AnswerPrefetch(call))); });
    loop.AcceptUnary([this](auto... call) { RequestAttach(call...); },
                     [this](UnaryCall& call) {
                       call.Finish(ToGrpc(AnswerAttach(call.request(), call.response())));
                     });
  }
  void Drain() override { streams_.Drain(); }

 private:
  absl::Status AnswerDescribe(const grpc::ByteBuffer& buffer, grpc::ByteBuffer& response) {
    v1::DescribeRequest request;
    if (!Decode(buffer, request)) return UnreadableError("DescribeRequest");
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

  absl::Status AnswerPrefetch(UnaryCall& call) {
    v1::PrefetchRequest request;
    ENGRAM_RETURN_IF_ERROR(CheckEncodedRequest(call.request()));
    if (!Decode(call.request(), request)) return UnreadableError("PrefetchRequest");
    ENGRAM_ASSIGN_OR_RETURN(const std::optional<Urgency> urgency, ToUrgency(request.urgency()));
    ENGRAM_ASSIGN_OR_RETURN(
        const Prefetcher::Result result,
        parts_.prefetcher->Prefetch(ToQuery(request), parts_.clients->Of(call.peer()),
                                    urgency.value_or(Urgency::kPrefetch)));
    v1::PrefetchResponse answer;
    answer.set_accepted(result.accepted);
    answer.set_skipped(result.skipped);
    call.response() = Encode(answer);
    return absl::OkStatus();
  }

  absl::Status AnswerAttach(const grpc::ByteBuffer& buffer, grpc::ByteBuffer& response) {
    v1::AttachRequest request;
    if (!Decode(buffer, request)) return UnreadableError("AttachRequest");
    ENGRAM_ASSIGN_OR_RETURN(const v1::AttachResponse answer,
                            DescribeSharedDram(*parts_.tables, parts_.sharing, request));
    response = Encode(answer);
    return absl::OkStatus();
  }

  // Finishes the call, now or later, unless it returns an error.
  absl::Status AnswerLookup(UnaryCall& call) {
    InFlight::Token token = parts_.in_flight->Enter();
    if (token == nullptr) {
      parts_.refusals->Count(Refusal::kShuttingDown);
      return ShuttingDownError();
    }
    v1::LookupRequest request;
    ENGRAM_RETURN_IF_ERROR(CheckEncodedRequest(call.request()));
    if (!Decode(call.request(), request)) return UnreadableError("LookupRequest");
    ENGRAM_RETURN_IF_ERROR(CheckPolicy(request));
    ENGRAM_ASSIGN_OR_RETURN(const std::optional<Urgency> urgency, ToUrgency(request.urgency()));
    absl::StatusOr<std::unique_ptr<engram::Lookup>> started =
        engram::Lookup::Start(*parts_.tables, *parts_.pool, parts_.limits, ToQuery(request));
    if (absl::IsResourceExhausted(started.status())) parts_.refusals->Count(Refusal::kTooLarge);
    ENGRAM_RETURN_IF_ERROR(started.status());
    const std::shared_ptr<engram::Lookup> lookup = *std::move(started);
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
        parts_.dispatcher->Submit({.urgency = Urgency::kDecode},
                                  [lookup, token = std::move(token)] { lookup->Warm(); });
      }
      return absl::OkStatus();
    }
    LookupJob::Caller caller{
        .client = parts_.clients->Of(call.peer()),
        .urgency = urgency,
        .deadline = ToSteady(call.deadline()),
        .is_gone = [&call] { return call.cancelled(); },
        .on_done = [lookup, &call,
                    token](const absl::Status& status) { Answer(*lookup, status, call); }};
    if (LookupJob::Submit(*parts_.dispatcher, lookup, small, std::move(caller))) {
      return absl::OkStatus();
    }
    parts_.refusals->Count(Refusal::kQueueFull);
    return OverloadedError(*parts_.dispatcher);
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
    Answer(lookup, lookup.Finish(), call);
  }
  static void Answer(engram::Lookup& lookup, const absl::Status& status, UnaryCall& call) {
    if (status.ok()) call.response() = EncodeLookupResponse(lookup);
    call.Finish(ToGrpc(status));
  }

  void AnswerStream(BidiCall& call) {
    StreamCall::Serve({.tables = parts_.tables,
                       .pool = parts_.pool,
                       .dispatcher = parts_.dispatcher,
                       .clients = parts_.clients,
                       .refusals = parts_.refusals,
                       .set = &streams_,
                       .seat = &*seat_,
                       .limits = parts_.limits},
                      parts_.in_flight->Enter(), call);
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
