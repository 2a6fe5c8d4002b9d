#include "server/rpc/admin_service.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engram/v1/admin.grpc.pb.h"
#include "server/http/stats_message.h"
#include "server/jobs/load_job.h"
#include "server/jobs/repair_job.h"
#include "server/jobs/verify_job.h"
#include "server/placement/dram_setup.h"
#include "server/placement/warm_start.h"
#include "server/rpc/clients.h"
#include "server/rpc/table_messages.h"
#include "server/rpc/wire.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// Progress more often than this is of no use to anybody.
constexpr std::chrono::milliseconds kProgressInterval{200};

v1::LoadPhase ToPhase(LoadPhase phase) {
  switch (phase) {
    case LoadPhase::kRead:
      return v1::LOAD_PHASE_READ;
    case LoadPhase::kPublish:
      return v1::LOAD_PHASE_PUBLISH;
    case LoadPhase::kVerify:
      return v1::LOAD_PHASE_VERIFY;
    case LoadPhase::kRepair:
      return v1::LOAD_PHASE_REPAIR;
  }
  return v1::LOAD_PHASE_UNSPECIFIED;
}

v1::LoadProgress ToProgress(const LoadStatus& status) {
  v1::LoadProgress progress;
  progress.set_rows_done(status.rows_done);
  progress.set_rows_total(status.rows_total);
  progress.set_bytes_done(status.bytes_done);
  progress.set_bytes_total(status.bytes_total);
  progress.set_rows_resumed(status.rows_resumed);
  progress.set_phase(ToPhase(status.phase));
  return progress;
}

v1::VerifyProgress ToProgress(const VerifyStatus& status) {
  v1::VerifyProgress progress;
  progress.set_rows_done(status.rows_done);
  progress.set_rows_total(status.rows_total);
  progress.set_bytes_done(status.bytes_done);
  progress.set_bytes_total(status.bytes_total);
  progress.set_dram_rows(status.dram_rows);
  progress.set_hbm_rows(status.hbm_rows);
  progress.set_bad_rows(status.bad_rows);
  return progress;
}

absl::Status CheckDirectory(const std::string& directory) {
  if (!directory.empty() && directory.front() == '/') return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("checkpoint '", directory, "' is not an absolute path on the daemon's host"));
}

absl::Status CheckLoad(const v1::LoadRequest& request) {
  ENGRAM_RETURN_IF_ERROR(CheckDirectory(request.checkpoint()));
  if (request.profile().empty()) return absl::OkStatus();
  if (request.repair()) {
    return absl::InvalidArgumentError(
        "a repair takes no profile: repair first, then load once more with the profile");
  }
  if (request.profile().front() == '/') return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("profile '", request.profile(),
                                                 "' is not an absolute path on the daemon's host"));
}

LoadPhase PhaseOf(const LoadStatus& status) { return status.phase; }
LoadPhase PhaseOf(const VerifyStatus&) { return LoadPhase::kVerify; }

// Sends progress at most every kProgressInterval, and each new phase at once; false once the caller
// has gone away.
template <typename Status, typename Message>
class ProgressWriter {
 public:
  ProgressWriter(grpc::ServerContext* context, grpc::ServerWriter<Message>* writer)
      : context_(context), writer_(writer) {}

  bool operator()(const Status& status) {
    if (context_->IsCancelled()) return false;
    const auto now = std::chrono::steady_clock::now();
    const LoadPhase phase = PhaseOf(status);
    if (now < next_ && phase == phase_) return true;
    next_ = now + kProgressInterval;
    phase_ = phase;
    return writer_->Write(ToProgress(status));
  }

 private:
  grpc::ServerContext* const context_;
  grpc::ServerWriter<Message>* const writer_;
  std::chrono::steady_clock::time_point next_{};
  std::optional<LoadPhase> phase_;  // of the last message
};

class AdminServiceImpl final : public AdminService, private v1::EngramAdmin::Service {
 public:
  explicit AdminServiceImpl(Parts parts) : parts_(std::move(parts)) {}

  grpc::Service* service() override { return this; }

 private:
  // Lets a call in. PermissionDenied for a caller on TCP, unless it is allowed; Unavailable when
  // the daemon is shutting down.
  absl::Status Enter(const grpc::ServerContext& context, InFlight::Token& token) const {
    token = parts_.in_flight->Enter();
    if (token == nullptr) return absl::UnavailableError("the daemon is shutting down");
    if (parts_.allow_tcp || Clients::IsLocal(context.peer())) {
      return absl::OkStatus();
    }
    return absl::PermissionDeniedError(
        absl::StrCat("admin calls are served on Unix sockets only, not to ", context.peer(),
                     " (admin_tcp is false)"));
  }

  // What a stopped job says when it was the daemon that stopped it.
  absl::Status Explain(const absl::Status& status) const {
    if (absl::IsCancelled(status) && parts_.stopping->load()) {
      return absl::UnavailableError(
          absl::StrCat("the daemon is shutting down: ", status.message()));
    }
    return status;
  }

  grpc::Status Load(grpc::ServerContext* context, const v1::LoadRequest* request,
                    grpc::ServerWriter<v1::LoadProgress>* writer) override {
    InFlight::Token token;
    absl::Status status = Enter(*context, token);
    if (status.ok()) status = CheckLoad(*request);
    if (!status.ok()) return ToGrpc(status);
    LoadParameters parameters{.table = request->table(),
                              .checkpoint = request->checkpoint(),
                              .model = request->model().empty() ? "auto" : request->model(),
                              .tensors = {request->tensors().begin(), request->tensors().end()},
                              .profile = request->profile(),
                              .version = VersionId{request->version()},
                              .allow_unverified = request->allow_unverified(),
                              .threads = parts_.load_threads,
                              .io_uring = parts_.io_uring};
    const ProgressWriter<LoadStatus, v1::LoadProgress> progress(context, writer);
    absl::StatusOr<v1::LoadProgress> last =
        request->repair() ? Repair(parameters, progress) : Load(parameters, progress);
    if (!last.ok()) return ToGrpc(Explain(last.status()));
    writer->Write(*last);
    return grpc::Status::OK;
  }

  using OnLoadProgress = std::function<bool(const LoadStatus&)>;

  v1::LoadProgress LastProgress(const LoadResult& result) const {
    v1::LoadProgress last = ToProgress(result.status);
    last.set_done(true);
    last.set_already_loaded(result.already_loaded);
    *last.mutable_table() = ToTableInfo(result.record, *parts_.tables->store());
    return last;
  }

  absl::StatusOr<v1::LoadProgress> Load(const LoadParameters& parameters,
                                        const OnLoadProgress& progress) {
    ENGRAM_ASSIGN_OR_RETURN(const LoadResult result,
                            RunLoad(*parts_.tables, parameters, *parts_.stopping, progress));
    if (!parameters.profile.empty()) {
      const absl::Status status =
          parts_.warm_start->TakeProfile(parameters.profile, result.record.spec);
      if (!status.ok()) {
        return absl::Status(
            status.code(), absl::StrCat("the table is loaded, but its profile was not taken over: ",
                                        status.message(), "; the same command tries again"));
      }
    }
    return LastProgress(result);
  }

  absl::StatusOr<v1::LoadProgress> Repair(const LoadParameters& parameters,
                                          const OnLoadProgress& progress) {
    ENGRAM_ASSIGN_OR_RETURN(const RepairResult result,
                            RunRepair(*parts_.tables, parameters, *parts_.stopping, progress));
    v1::LoadProgress last = LastProgress(result.load);
    if (result.finished_load) return last;
    v1::RepairReport& report = *last.mutable_repair();
    report.set_chunks(result.counts.chunks);
    report.set_damaged_chunks(result.counts.damaged_chunks);
    report.set_damaged_rows(result.counts.damaged_rows);
    report.set_rewritten_chunks(result.counts.rewritten_chunks);
    report.set_rewritten_rows(result.counts.rewritten_rows);
    for (const std::string& problem : result.counts.problems) report.add_problems(problem);
    return last;
  }

  grpc::Status List(grpc::ServerContext* context, const v1::ListRequest* /*request*/,
                    v1::ListResponse* response) override {
    InFlight::Token token;
    if (const absl::Status status = Enter(*context, token); !status.ok()) return ToGrpc(status);
    for (const TableRecord& record : parts_.tables->store()->List()) {
      const bool published = record.state == TableState::kPublished;
      *(published ? response->add_tables() : response->add_unfinished()) =
          ToTableInfo(record, *parts_.tables->store());
    }
    return grpc::Status::OK;
  }

  grpc::Status Activate(grpc::ServerContext* context, const v1::ActivateRequest* request,
                        v1::ActivateResponse* /*response*/) override {
    InFlight::Token token;
    if (const absl::Status status = Enter(*context, token); !status.ok()) return ToGrpc(status);
    if (request->version() == 0) {
      return ToGrpc(absl::InvalidArgumentError("activate needs a version, 1 or more"));
    }
    return ToGrpc(parts_.tables->Activate(request->table(), VersionId{request->version()}));
  }

  grpc::Status DropTable(grpc::ServerContext* context, const v1::DropTableRequest* request,
                         v1::DropTableResponse* response) override {
    InFlight::Token token;
    if (const absl::Status status = Enter(*context, token); !status.ok()) return ToGrpc(status);
    const absl::StatusOr<std::vector<VersionId>> dropped =
        parts_.tables->DropTable(request->table());
    if (!dropped.ok()) return ToGrpc(dropped.status());
    for (const VersionId version : *dropped) response->add_versions(Raw(version));
    return grpc::Status::OK;
  }

  grpc::Status DropVersion(grpc::ServerContext* context, const v1::DropVersionRequest* request,
                           v1::DropVersionResponse* /*response*/) override {
    InFlight::Token token;
    if (const absl::Status status = Enter(*context, token); !status.ok()) return ToGrpc(status);
    if (request->version() == 0) {
      return ToGrpc(absl::InvalidArgumentError("a drop of a version needs one, 1 or more"));
    }
    return ToGrpc(parts_.tables->DropVersion(request->table(), VersionId{request->version()}));
  }

  grpc::Status Verify(grpc::ServerContext* context, const v1::VerifyRequest* request,
                      grpc::ServerWriter<v1::VerifyProgress>* writer) override {
    InFlight::Token token;
    absl::Status status = Enter(*context, token);
    if (status.ok() && !request->checkpoint().empty()) {
      status = CheckDirectory(request->checkpoint());
    }
    if (!status.ok()) return ToGrpc(status);
    const absl::StatusOr<VerifyStatus> result = RunVerify(
        *parts_.tables,
        {.table = request->table(),
         .version = VersionId{request->version()},
         .checkpoint = request->checkpoint(),
         .model = request->model().empty() ? "auto" : request->model(),
         .tensors = {request->tensors().begin(), request->tensors().end()},
         .allow_unverified = request->allow_unverified(),
         .hbm = parts_.hbm},
        *parts_.stopping, ProgressWriter<VerifyStatus, v1::VerifyProgress>(context, writer));
    if (!result.ok()) return ToGrpc(Explain(result.status()));
    v1::VerifyProgress last = ToProgress(*result);
    last.set_done(true);
    for (const std::string& problem : result->problems) last.add_problems(problem);
    writer->Write(last);
    return grpc::Status::OK;
  }

  grpc::Status SetDramBudget(grpc::ServerContext* context, const v1::SetDramBudgetRequest* request,
                             v1::SetDramBudgetResponse* response) override {
    InFlight::Token token;
    if (const absl::Status status = Enter(*context, token); !status.ok()) return ToGrpc(status);
    Tables& tables = *parts_.tables;
    const uint64_t before = tables.dram_budget_bytes();
    if (request->bytes() > before) {
      const absl::Status room =
          CheckRoomForDram(tables.segments(), request->bytes(), tables.DramBytes());
      if (!room.ok()) return ToGrpc(room);
    }
    tables.SetDramBudget(request->bytes());
    response->set_dram_budget_bytes(request->bytes());
    response->set_before_bytes(before);
    response->set_used_bytes(tables.DramBytes());
    return grpc::Status::OK;
  }

  grpc::Status Stats(grpc::ServerContext* context, const v1::StatsRequest* /*request*/,
                     v1::StatsResponse* response) override {
    InFlight::Token token;
    if (const absl::Status status = Enter(*context, token); !status.ok()) return ToGrpc(status);
    *response = ToStatsMessage(parts_.snapshot());
    return grpc::Status::OK;
  }

  const Parts parts_;
};

}  // namespace

std::unique_ptr<AdminService> AdminService::Create(Parts parts) {
  return std::make_unique<AdminServiceImpl>(std::move(parts));
}

}  // namespace engram
