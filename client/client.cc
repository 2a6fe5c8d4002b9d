#include "client/client.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/grpc/channel.h"
#include "client/grpc/transport.h"
#include "client/local/shm_transport.h"
#include "client/transport.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

class ClientImpl : public Client {
 public:
  ClientImpl(std::unique_ptr<Transport> transport, TransportKind kind,
             std::chrono::milliseconds default_deadline)
      : transport_(std::move(transport)), kind_(kind), default_deadline_(default_deadline) {}

  absl::StatusOr<TableDescription> Describe(const std::string& table, uint64_t version) override {
    return transport_->Describe(table, version, default_deadline_);
  }

  absl::StatusOr<TableDescription> OpenTable(const std::string& table,
                                             const TableExpectation& expected,
                                             uint64_t version) override {
    ENGRAM_ASSIGN_OR_RETURN(TableDescription found, Describe(table, version));
    ENGRAM_RETURN_IF_ERROR(CheckTable(found, expected));
    if (found.table_digest.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "table \"", table, "\" version ", found.version,
          " has no table digest, so nothing would hold look-ups to it; load it again"));
    }
    return found;
  }

  absl::StatusOr<std::vector<int32_t>> FetchTokenMap(const std::string& table,
                                                     uint64_t version) override {
    return transport_->FetchTokenMap(table, version, default_deadline_);
  }

  absl::StatusOr<LookupAnswer> Lookup(const LookupRequest& request) override {
    return transport_->Lookup(request, Timeout(request.deadline));
  }

  void LookupAsync(const LookupRequest& request,
                   std::function<void(absl::StatusOr<LookupAnswer>)> done) override {
    transport_->LookupAsync(request, Timeout(request.deadline), std::move(done));
  }

  void Prefetch(const PrefetchRequest& request,
                std::function<void(absl::StatusOr<PrefetchAnswer>)> done) override {
    if (!done) done = [](const absl::StatusOr<PrefetchAnswer>&) {};
    transport_->Prefetch(request, Timeout(request.deadline), std::move(done));
  }

  absl::StatusOr<std::unique_ptr<LookupStream>> OpenStream() override {
    return transport_->OpenStream(default_deadline_);
  }

  TransportKind transport() const override { return kind_; }

 private:
  std::chrono::milliseconds Timeout(std::chrono::milliseconds deadline) const {
    return deadline.count() == 0 ? default_deadline_ : deadline;
  }

  const std::unique_ptr<Transport> transport_;
  const TransportKind kind_;
  const std::chrono::milliseconds default_deadline_;
};

constexpr char kTransportVariable[] = "ENGRAM_TRANSPORT";
constexpr std::chrono::milliseconds kAttachTimeout{1000};

absl::StatusOr<TransportKind> Wanted(TransportKind option) {
  const char* const text = std::getenv(kTransportVariable);
  if (option != TransportKind::kAuto || text == nullptr || *text == '\0') return option;
  const absl::string_view value(text);
  if (value == "auto") return TransportKind::kAuto;
  if (value == "grpc") return TransportKind::kGrpc;
  if (value == "shm") return TransportKind::kShm;
  return absl::InvalidArgumentError(
      absl::StrCat("$", kTransportVariable, " is \"", value, "\"; it may be auto, grpc or shm"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  ENGRAM_ASSIGN_OR_RETURN(TransportKind kind, Wanted(options.transport));
  ENGRAM_ASSIGN_OR_RETURN(
      std::shared_ptr<grpc::Channel> channel,
      OpenChannel(options.target, options.max_answer_bytes, options.connect_timeout));
  std::unique_ptr<Transport> transport = MakeGrpcTransport(channel);
  absl::string_view path = options.target;
  const bool local = absl::ConsumePrefix(&path, "unix:");
  if (kind == TransportKind::kShm && !local) {
    return absl::FailedPreconditionError(
        absl::StrCat("the transport shm needs the daemon's Unix socket as target, not \"",
                     options.target, "\""));
  }
  if (kind != TransportKind::kGrpc && local) {
    absl::StatusOr<std::unique_ptr<Transport>> shm =
        AttachShm(transport, std::move(channel), std::string(path),
                  std::min(options.connect_timeout, kAttachTimeout));
    if (shm.ok()) {
      transport = *std::move(shm);
      kind = TransportKind::kShm;
    } else if (kind == TransportKind::kShm) {
      return absl::FailedPreconditionError(
          absl::StrCat("the transport shm is not to be had: ", shm.status().message()));
    }
  }
  if (kind == TransportKind::kAuto) kind = TransportKind::kGrpc;
  return std::make_unique<ClientImpl>(std::move(transport), kind, options.default_deadline);
}

}  // namespace engram
