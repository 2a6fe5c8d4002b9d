#include "client/grpc/transport.h"

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/grpc/describe.h"
#include "client/grpc/message.h"
#include "client/grpc/request_encoder.h"
#include "client/grpc/stream.h"
#include "client/grpc/table_description.h"
#include "client/grpc/unary_call.h"
#include "engram/v1/store.pb.h"
#include "storage/base/status_macros.h"
#include "storage/table/token_map.h"

namespace engram {
namespace {

constexpr char kLookup[] = "/engram.v1.EngramStore/Lookup";
constexpr char kPrefetch[] = "/engram.v1.EngramStore/Prefetch";

class GrpcTransport : public Transport {
 public:
  GrpcTransport(std::shared_ptr<grpc::Channel> channel)
      : channel_(std::move(channel)), caller_(channel_) {}

  absl::StatusOr<TableDescription> Describe(const std::string& table, uint64_t version,
                                            std::chrono::milliseconds timeout) override {
    v1::DescribeRequest request;
    request.set_table(table);
    request.set_version(version);
    ENGRAM_ASSIGN_OR_RETURN(const v1::DescribeResponse response,
                            CallDescribe(caller_, request, timeout));
    return DescriptionFromWire(response.table());
  }

  absl::StatusOr<std::vector<int32_t>> FetchTokenMap(const std::string& table, uint64_t version,
                                                     std::chrono::milliseconds timeout) override {
    v1::DescribeRequest request;
    request.set_table(table);
    request.set_version(version);
    request.set_want_token_map(true);
    ENGRAM_ASSIGN_OR_RETURN(const v1::DescribeResponse response,
                            CallDescribe(caller_, request, timeout));
    const v1::TableInfo& info = response.table();
    if (info.token_map_digest().empty()) {
      return absl::NotFoundError(
          absl::StrCat("table \"", table, "\" version ", info.version(), " has no token map"));
    }
    ENGRAM_ASSIGN_OR_RETURN(const TokenMap map,
                            TokenMap::Parse(response.token_map(), info.token_map_digest()));
    return std::vector<int32_t>(map.compressed().begin(), map.compressed().end());
  }

  absl::StatusOr<LookupAnswer> Lookup(const LookupRequest& request,
                                      std::chrono::milliseconds timeout) override {
    ENGRAM_ASSIGN_OR_RETURN(const RequestEncoder encoder, RequestEncoder::ForLookup(request, 0));
    grpc::ByteBuffer answer;
    ENGRAM_RETURN_IF_ERROR(caller_.Call(kLookup, ToBuffer(encoder), timeout, &answer));
    return ReadLookupAnswer(&answer, request);
  }

  void LookupAsync(const LookupRequest& request, std::chrono::milliseconds timeout,
                   std::function<void(absl::StatusOr<LookupAnswer>)> done) override {
    const absl::StatusOr<RequestEncoder> encoder = RequestEncoder::ForLookup(request, 0);
    if (!encoder.ok()) return done(encoder.status());
    caller_.CallAsync(
        kLookup, ToBuffer(*encoder), timeout,
        [request, done = std::move(done)](const absl::Status& status, grpc::ByteBuffer* answer) {
          if (!status.ok()) return done(status);
          done(ReadLookupAnswer(answer, request));
        });
  }

  void Prefetch(const PrefetchRequest& request, std::chrono::milliseconds timeout,
                std::function<void(absl::StatusOr<PrefetchAnswer>)> done) override {
    const absl::StatusOr<RequestEncoder> encoder = RequestEncoder::ForPrefetch(request);
    if (!encoder.ok()) return done(encoder.status());
    caller_.CallAsync(
        kPrefetch, ToBuffer(*encoder), timeout,
        [done = std::move(done)](const absl::Status& status, grpc::ByteBuffer* answer) {
          if (!status.ok()) return done(status);
          v1::PrefetchResponse response;
          if (absl::Status parsed = FromBuffer(answer, &response); !parsed.ok()) {
            return done(std::move(parsed));
          }
          done(PrefetchAnswer{response.accepted(), response.skipped()});
        });
  }

  absl::StatusOr<std::unique_ptr<LookupStream>> OpenStream(
      std::chrono::milliseconds default_timeout) override {
    return OpenGrpcStream(channel_, default_timeout);
  }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
  UnaryCaller caller_;
};

}  // namespace

std::unique_ptr<Transport> MakeGrpcTransport(std::shared_ptr<grpc::Channel> channel) {
  return std::make_unique<GrpcTransport>(std::move(channel));
}

}  // namespace engram
