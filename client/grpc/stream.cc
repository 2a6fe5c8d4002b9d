#include "client/grpc/stream.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/impl/rpc_method.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/sync_stream.h>

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/grpc/channel.h"
#include "client/grpc/lookup_codec.h"
#include "client/grpc/message.h"
#include "client/grpc/request_encoder.h"
#include "client/grpc/stream_watch.h"
#include "client/grpc/wire_status.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using ByteStream = grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;
using ByteStreamFactory =
    grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>;

class GrpcLookupStream : public LookupStream {
 public:
  GrpcLookupStream(std::shared_ptr<grpc::Channel> channel,
                   std::chrono::milliseconds default_timeout)
      : channel_(std::move(channel)),
        default_timeout_(default_timeout),
        stream_(ByteStreamFactory::Create(
            channel_.get(),
            grpc::internal::RpcMethod("/engram.v1.EngramStore/StreamLookup",
                                      grpc::internal::RpcMethod::BIDI_STREAMING),
            &context_)),
        watch_(StreamWatch::Start(&context_)) {}

  ~GrpcLookupStream() override {
    watch_->Stop();
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  absl::Status Send(const LookupRequest& request) override;
  absl::StatusOr<Event> Receive() override;

  void CloseSend() override {
    {
      MutexLock lock(mutex_);
      if (closed_) return;
      closed_ = true;
    }
    stream_->WritesDone();
  }

 private:
  struct Pending {
    uint64_t sequence = 0;
    LookupRequest request;
    std::chrono::milliseconds timeout{0};
    std::vector<bool> answered;  // by index of the request's layers
  };

  // Waits for the window and takes a place in it.
  absl::StatusOr<uint64_t> Enqueue(const LookupRequest& request, std::chrono::milliseconds timeout);
  // Null when nothing is pending. Only the receiving thread takes requests out, so what it gets
  // here stays valid while it works on it.
  Pending* Front();
  void PopFront();

  absl::StatusOr<Event> Read(ScannedStreamResponse scanned, grpc::ByteBuffer* message);
  // Ends the stream for good, and returns why.
  absl::Status Break(absl::Status status);
  absl::Status Finish();

  const std::shared_ptr<grpc::Channel> channel_;
  const std::chrono::milliseconds default_timeout_;
  grpc::ClientContext context_;
  const std::unique_ptr<ByteStream> stream_;
  const std::shared_ptr<StreamWatch> watch_;
  bool finished_ = false;  // the receiving thread's

  Mutex mutex_;
  CondVar window_;
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  bool receiving_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
};

absl::Status GrpcLookupStream::Send(const LookupRequest& request) {
  const auto timeout = request.deadline.count() == 0 ? default_timeout_ : request.deadline;
  // The id is known only in the window, and takes its place in the message from there.
  ENGRAM_RETURN_IF_ERROR(RequestEncoder::ForLookup(request, 0).status());
  ENGRAM_ASSIGN_OR_RETURN(const uint64_t sequence, Enqueue(request, timeout));
  ENGRAM_ASSIGN_OR_RETURN(const RequestEncoder encoder,
                          RequestEncoder::ForLookup(request, sequence));
  watch_->Limit(StreamWatch::Operation::kWrite, timeout);
  const bool sent = stream_->Write(ToBuffer(encoder));
  watch_->Over(StreamWatch::Operation::kWrite);
  // Why is the receiver's to say: its read fails too.
  if (!sent) return absl::UnavailableError("the stream to engramd is broken");
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> GrpcLookupStream::Enqueue(const LookupRequest& request,
                                                   std::chrono::milliseconds timeout) {
  const auto deadline = DeadlineAfter(timeout);
  MutexLock lock(mutex_);
  while (true) {
    if (closed_) return absl::FailedPreconditionError("Send after CloseSend");
    if (!end_.ok()) {
      return absl::UnavailableError(
          absl::StrCat("the stream to engramd is broken: ", end_.message()));
    }
    if (pending_.size() < kStreamWindow) break;
    const auto left = deadline - std::chrono::system_clock::now();
    if (left.count() <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(kStreamWindow, " requests are unanswered and none was taken within ",
                       timeout.count(), " ms; receive answers while you send"));
    }
    window_.WaitFor(mutex_, left);
  }
  const uint64_t sequence = next_sequence_++;
  pending_.push_back({sequence, request, timeout, std::vector<bool>(request.layers.size())});
  if (receiving_ && pending_.size() == 1) watch_->Limit(StreamWatch::Operation::kRead, timeout);
  return sequence;
}

GrpcLookupStream::Pending* GrpcLookupStream::Front() {
  MutexLock lock(mutex_);
  return pending_.empty() ? nullptr : &pending_.front();
}

void GrpcLookupStream::PopFront() {
  MutexLock lock(mutex_);
  pending_.pop_front();
  window_.NotifyAll();
}

absl::Status GrpcLookupStream::Break(absl::Status status) {
  context_.TryCancel();
  MutexLock lock(mutex_);
  end_ = std::move(status);
  window_.NotifyAll();
  return end_;
}

absl::Status GrpcLookupStream::Finish() {
  const grpc::Status status = stream_->Finish();
  finished_ = true;
  if (watch_->expired()) {
    return absl::DeadlineExceededError("engramd did not answer on the stream in time");
  }
  if (!status.ok()) return StatusFromGrpc(status);
  MutexLock lock(mutex_);
  if (closed_ && pending_.empty()) return absl::OutOfRangeError("all requests are answered");
  return absl::UnavailableError(
      absl::StrCat("engramd ended the stream with ", pending_.size(), " requests unanswered"));
}

absl::StatusOr<LookupStream::Event> GrpcLookupStream::Receive() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!end_.ok()) return end_;
      receiving_ = true;
      if (!pending_.empty()) {
        watch_->Limit(StreamWatch::Operation::kRead, pending_.front().timeout);
      }
    }
    grpc::ByteBuffer message;
    const bool got = stream_->Read(&message);
    {
      MutexLock lock(mutex_);
      receiving_ = false;
      watch_->Over(StreamWatch::Operation::kRead);
    }
    if (!got) return Break(Finish());
    grpc::ProtoBufferReader reader(&message);
    absl::StatusOr<ScannedStreamResponse> scanned = ScanStreamResponse(&reader);
    if (!scanned.ok()) return Break(scanned.status());
    // A message that says nothing.
    if (scanned->status.ok() && scanned->layers.empty() && !scanned->last) continue;
    absl::StatusOr<Event> event = Read(*std::move(scanned), &message);
    if (!event.ok()) return Break(event.status());
    return event;
  }
}

absl::StatusOr<LookupStream::Event> GrpcLookupStream::Read(ScannedStreamResponse scanned,
                                                           grpc::ByteBuffer* message) {
  Pending* pending = Front();
  if (pending == nullptr || pending->sequence != scanned.request_id) {
    return absl::InternalError(absl::StrCat(
        "engramd answered request ", scanned.request_id, " on a stream that waits for ",
        pending == nullptr ? "none" : absl::StrCat("request ", pending->sequence)));
  }
  Event event;
  event.sequence = scanned.request_id;
  event.last = scanned.last || !scanned.status.ok();
  event.status = std::move(scanned.status);
  event.version = scanned.version;
  if (!scanned.layers.empty()) {
    ScannedLayer& layer = scanned.layers.front();
    ENGRAM_RETURN_IF_ERROR(CheckLayer(pending->request, layer));
    if (pending->answered[layer.request_index]) {
      return absl::InternalError(absl::StrCat("engramd answered layer ", layer.answer.layer,
                                              " of request ", event.sequence, " twice"));
    }
    pending->answered[layer.request_index] = true;
    if (layer.out_status.ok()) {
      grpc::ProtoBufferReader reader(message);
      ENGRAM_RETURN_IF_ERROR(CopyRows(&reader, pending->request, scanned.layers));
    }
    event.status = layer.out_status;
    event.layer = std::move(layer.answer);
  }
  if (!event.last) return event;
  for (size_t i = 0; i < pending->answered.size(); ++i) {
    if (pending->answered[i] || !event.status.ok()) continue;
    return absl::InternalError(absl::StrCat("engramd's answer to request ", event.sequence,
                                            " lacks layer ", pending->request.layers[i].layer));
  }
  PopFront();
  return event;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LookupStream>> OpenGrpcStream(
    std::shared_ptr<grpc::Channel> channel, std::chrono::milliseconds default_timeout) {
  // A stream cannot be repeated as a single call can; so it begins on a connection that stands.
  if (!channel->WaitForConnected(DeadlineAfter(default_timeout))) {
    return absl::UnavailableError(absl::StrCat("cannot reach engramd within ",
                                               default_timeout.count(), " ms: is it running?"));
  }
  return std::make_unique<GrpcLookupStream>(std::move(channel), default_timeout);
}

}  // namespace engram
