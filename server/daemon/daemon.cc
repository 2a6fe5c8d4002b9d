#include "server/daemon/daemon.h"

#include <sys/un.h>

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/dram/handover.h"

namespace engram {
namespace {

// Unused answer buffers kept for the next look-ups.
constexpr size_t kPooledBytes = size_t{64} << 20;

dram::Admission AdmissionOf(const std::string& name) {
  if (name == "all") return dram::Admission::kAll;
  if (name == "prefetch") return dram::Admission::kPrefetch;
  if (name == "frequency") return dram::Admission::kFrequency;
  return dram::Admission::kAdaptive;  // the only other one that the config lets through
}

std::string HotnessDirectory(const Config& config) {
  return absl::StrCat(config.data_dir, "/hotness");
}

WarmStart::Options WarmStartOptions(const Config& config) {
  WarmStart::Options options{.directory = HotnessDirectory(config),
                             .keep_live = config.warm_restart};
  for (const std::string& profile : config.profiles) {
    options.profiles.push_back(absl::StrSplit(profile, absl::MaxSplits('=', 1)));
  }
  return options;
}

HbmCache::Options HbmOptions(const Config& config) {
  HbmCache::Memory memory = HbmCache::Memory::kGpu;
  if (config.hbm_memory == "gpu-writable") memory = HbmCache::Memory::kGpuWritable;
  if (config.hbm_memory == "host") memory = HbmCache::Memory::kHost;
  return {.budget_bytes = config.hbm_bytes,
          .memory = memory,
          .gpu = config.gpu,
          .refresh = std::chrono::seconds(config.hbm_refresh_seconds),
          .hotness_directory = HotnessDirectory(config)};
}

}  // namespace

Daemon::Daemon(Config config)
    : config_(std::move(config)),
      start_(std::chrono::steady_clock::now()),
      hbm_(HbmOptions(config_)),
      pool_(kPooledBytes),
      gather_helpers_(config_.gather_threads),
      dispatcher_({.threads = config_.io_threads, .max_queued = config_.max_queued_batches}) {}

absl::Status Daemon::Start() {
  // Before the store, whose opening may take a while: /healthz answers, /readyz says no.
  ENGRAM_RETURN_IF_ERROR(StartHttp());
  ENGRAM_RETURN_IF_ERROR(OpenTiers());
  const std::vector<std::string> sockets = SocketsForSharing();
  const Sharing sharing = PlanSharing(sockets);
  CreateServices(sharing);
  ENGRAM_RETURN_IF_ERROR(StartGrpc());
  ENGRAM_RETURN_IF_ERROR(StartHandover(sharing, sockets));
  // Last: nothing can fail any more, so Stop is called.
  StartBackground();
  ready_ = true;
  return absl::OkStatus();
}

absl::Status Daemon::StartHttp() {
  if (config_.http.empty()) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(http_, HttpServer::Start(config_.http, [this] { return Snapshot(); }));
  ENGRAM_LOG(kInfo) << "http on port " << http_->port();
  return absl::OkStatus();
}

absl::Status Daemon::OpenTiers() {
  ENGRAM_LOG(kInfo) << "hbm tier " << hbm_.note();
  ENGRAM_ASSIGN_OR_RETURN(store_, Store::Open({.directory = config_.data_dir,
                                               .read_threads = config_.read_threads,
                                               .read_depth = config_.nvme_depth,
                                               .use_io_uring = config_.io_uring,
                                               .use_direct_io = config_.direct_io}));
  ENGRAM_LOG(kInfo) << "nvme tier in " << config_.data_dir << ": " << store_->Describe();
  // After the store, whose lock keeps a second daemon out of the directory in memory too.
  ENGRAM_ASSIGN_OR_RETURN(dram_, SetUpDram(config_));
  warm_start_ = std::make_unique<WarmStart>(WarmStartOptions(config_));
  ENGRAM_ASSIGN_OR_RETURN(tables_,
                          Tables::Open(store_.get(), {.dram_budget_bytes = dram_.budget_bytes,
                                                      .segments = dram_.segments.get(),
                                                      .admission = AdmissionOf(config_.admission),
                                                      .dram = warm_start_.get(),
                                                      .hbm = &hbm_,
                                                      .gather_helpers = &gather_helpers_}));
  ENGRAM_LOG(kInfo) << "dram tier " << FormatSize(dram_.budget_bytes) << " in " << dram_.note;
  return absl::OkStatus();
}

void Daemon::CreateServices(const Sharing& sharing) {
  const LookupLimits limits{.max_answer_bytes = config_.max_answer};
  prefetcher_ =
      std::make_unique<Prefetcher>(tables_.get(), &dispatcher_, config_.max_queued_batches, limits);
  store_service_ = StoreService::Create({.tables = tables_.get(),
                                         .pool = &pool_,
                                         .dispatcher = &dispatcher_,
                                         .clients = &clients_,
                                         .in_flight = &in_flight_,
                                         .prefetcher = prefetcher_.get(),
                                         .refusals = &refusals_,
                                         .limits = limits,
                                         .sharing = sharing});
  admin_service_ = AdminService::Create({.tables = tables_.get(),
                                         .in_flight = &in_flight_,
                                         .warm_start = warm_start_.get(),
                                         .hbm = &hbm_,
                                         .stopping = &stopping_,
                                         .snapshot = [this] { return Snapshot(); },
                                         .load_threads = config_.load_threads,
                                         .io_uring = config_.io_uring,
                                         .allow_tcp = config_.admin_tcp});
}

absl::Status Daemon::StartGrpc() {
  ENGRAM_ASSIGN_OR_RETURN(
      grpc_, GrpcServer::Start({.listen = config_.listen,
                                .max_request_bytes = config_.max_request,
                                .clients = &clients_},
                               store_service_.get(), admin_service_.get(), &in_flight_));
  for (const std::string& address : grpc_->addresses()) {
    ENGRAM_LOG(kInfo) << "grpc on " << address;
  }
  return absl::OkStatus();
}

absl::Status Daemon::StartHandover(const Sharing& sharing,
                                   const std::vector<std::string>& sockets) {
  if (sharing.instance == 0) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(handover_,
                          HandoverServer::Start({.instance = sharing.instance,
                                                 .grpc_sockets = sockets,
                                                 .tables = tables_.get(),
                                                 .hbm = &hbm_,
                                                 .writable_dram = sharing.writable_dram}));
  return absl::OkStatus();
}

void Daemon::StartBackground() {
  adopted_check_ = std::make_unique<AdoptedCheck>(tables_.get());
  warm_start_->Start(tables_.get());
  hbm_.Start(tables_.get());
}

void Daemon::Stop() {
  ready_ = false;
  stopping_ = true;
  // What is queued may be minutes of reading, and no look-up will need it.
  prefetcher_->Stop();
  adopted_check_->Stop();
  grpc_->Shutdown(std::chrono::seconds(config_.drain_seconds));
  if (http_ != nullptr) http_->Stop();  // its snapshots read the telemetry of the hand-over
  handover_.reset();
  warm_start_->Stop();
  hbm_.Stop();
  if (!config_.warm_restart) tables_->GiveUpDram();
}

std::vector<std::string> Daemon::SocketsForSharing() const {
  std::vector<std::string> paths;
  for (absl::string_view address : config_.listen) {
    if (!absl::ConsumePrefix(&address, "unix:")) continue;
    // 107 bytes, of which the second socket needs a few more than the first.
    if (address.size() + std::size(dram::kHandoverSuffix) > sizeof(sockaddr_un::sun_path)) {
      ENGRAM_LOG(kWarning) << "clients of " << address
                           << " get no shared memory: the path leaves no room for its second "
                           << "socket; give a shorter one";
      continue;
    }
    paths.emplace_back(address);
  }
  return paths;
}

Sharing Daemon::PlanSharing(const std::vector<std::string>& sockets) const {
  if (!dram_.segments->shared()) return {.note = dram_.note};
  if (sockets.empty()) {
    return {.note = "it listens on no Unix socket (with a path of up to 103 bytes)"};
  }
  return {.instance = HandoverServer::NewInstance(),
          .note = "",
          .writable_dram = config_.hbm_memory == "gpu-writable",
          .hbm = &hbm_};
}

DaemonSnapshot Daemon::Snapshot() const {
  DaemonSnapshot snapshot;
  snapshot.daemon_version = std::string(EngramVersion());
  snapshot.uptime_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  snapshot.hbm_note = hbm_.note();
  snapshot.dram_budget_bytes = config_.dram_bytes;
  snapshot.hbm_budget_bytes = config_.hbm_bytes;
  // Acquire pairs with the store of ready_ in Start: the parts made before it are visible.
  snapshot.ready = ready_.load(std::memory_order_acquire);
  if (!snapshot.ready && !stopping_.load(std::memory_order_acquire)) return snapshot;
  snapshot.nvme_io = store_->Describe();
  snapshot.dram_budget_bytes = tables_->dram_budget_bytes();
  snapshot.dram_memory = dram_.note;
  if (handover_ != nullptr && snapshot.ready) {
    handover_->ReadTelemetry();
    snapshot.attached_clients = handover_->clients();
    if (const size_t writing = handover_->writing_clients(); writing > 0) {
      absl::StrAppend(&snapshot.dram_memory, "; ", writing,
                      " of its clients could write it, for their GPUs read no memory that they "
                      "may not write (hbm_memory is gpu-writable)");
    }
  }
  snapshot.client_connections = clients_.connections();
  snapshot.queue = dispatcher_.Snapshot();
  for (size_t i = 0; i < snapshot.refused.size(); ++i) {
    snapshot.refused[i] = refusals_.counts[i].load(std::memory_order_relaxed);
  }
  snapshot.tables = tables_->Snapshot();
  return snapshot;
}

}  // namespace engram
