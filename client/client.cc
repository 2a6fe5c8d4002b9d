#include "client/client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/grpc_transport.h"
#include "client/transport.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

class ClientImpl : public Client {
 public:
  ClientImpl(std::unique_ptr<Transport> transport, std::chrono::milliseconds default_deadline)
      : transport_(std::move(transport)), default_deadline_(default_deadline) {}

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

 private:
  std::chrono::milliseconds Timeout(std::chrono::milliseconds deadline) const {
    return deadline.count() == 0 ? default_deadline_ : deadline;
  }

  const std::unique_ptr<Transport> transport_;
  const std::chrono::milliseconds default_deadline_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport, ConnectGrpc(options));
  return std::make_unique<ClientImpl>(std::move(transport), options.default_deadline);
}

}  // namespace engram
