// engramd: reads its config, opens the data directory, serves until SIGTERM.

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/rpc/admin_service.h"
#include "server/jobs/adopted_check.h"
#include "server/lookup/buffer_pool.h"
#include "server/config/config.h"
#include "server/placement/warm_start.h"
#include "server/placement/dram_setup.h"
#include "server/lookup/executor.h"
#include "server/rpc/grpc_server.h"
#include "server/local/handover_server.h"
#include "server/placement/hbm_cache.h"
#include "server/http/http.h"
#include "server/rpc/in_flight.h"
#include "server/daemon/notify.h"
#include "server/lookup/prefetcher.h"
#include "server/rpc/store_service.h"
#include "server/tables/tables.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/dram/handover.h"
#include "storage/nvme/store.h"

namespace engram {
namespace {

// Unused answer buffers kept for the next look-ups.
constexpr size_t kPooledBytes = size_t{64} << 20;
constexpr int kPrefetchThreads = 2;

// SIGTERM and SIGINT are taken by one thread with sigwait; all others, gRPC's and RocksDB's too,
// inherit the mask that blocks them.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// Four descriptors a file of the store, some 1,500 for a table of 189 GiB; shells and containers
// often start a process with 1,024. The hard limit is the administrator's word.
void RaiseFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == files.rlim_max) return;
  const rlim_t before = files.rlim_cur;
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) == 0) return;
  ENGRAM_LOG(kWarning) << "the limit of open files stays at " << before
                       << ": large tables may need more (ulimit -n)";
}

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

// Everything that serves, in the order in which it is made; destroyed the other way round.
class Daemon {
 public:
  explicit Daemon(Config config)
      : config_(std::move(config)),
        start_(std::chrono::steady_clock::now()),
        hbm_(HbmOptions(config_)),
        pool_(kPooledBytes),
        gather_helpers_(config_.gather_threads),
        executor_(config_.io_threads, config_.max_queued_batches) {}

  absl::Status Start() {
    if (!config_.http.empty()) {
      // Before the store, whose opening may take a while: /healthz answers, /readyz says no.
      ENGRAM_ASSIGN_OR_RETURN(http_,
                              HttpServer::Start(config_.http, [this] { return Snapshot(); }));
      ENGRAM_LOG(kInfo) << "http on port " << http_->port();
    }
    ENGRAM_LOG(kInfo) << "hbm tier " << hbm_.note();
    ENGRAM_ASSIGN_OR_RETURN(store_, Store::Open({.directory = config_.data_dir,
                                                 .read_threads = config_.read_threads,
                                                 .read_depth = config_.nvme_depth,
                                                 .use_io_uring = config_.io_uring,
                                                 .use_direct_io = config_.direct_io}));
    ENGRAM_LOG(kInfo) << "nvme tier in " << config_.data_dir << ": " << store_->Describe();
    // Behind the store, whose lock sees to it that the directory in memory has one daemon too.
    ENGRAM_ASSIGN_OR_RETURN(dram_, SetUpDram(config_));
    placer_ = std::make_unique<WarmStart>(WarmStartOptions(config_));
    ENGRAM_ASSIGN_OR_RETURN(tables_,
                            Tables::Open(store_.get(), {.dram_budget_bytes = dram_.budget_bytes,
                                                        .segments = dram_.segments.get(),
                                                        .admission = AdmissionOf(config_.admission),
                                                        .dram = placer_.get(),
                                                        .hbm = &hbm_,
                                                        .gather_helpers = &gather_helpers_}));
    ENGRAM_LOG(kInfo) << "dram tier " << FormatSize(dram_.budget_bytes) << " in " << dram_.note;
    const std::vector<std::string> sockets = SocketsForSharing();
    const Sharing sharing = PlanSharing(sockets);
    prefetcher_ =
        std::make_unique<Prefetcher>(tables_.get(), kPrefetchThreads, config_.max_queued_batches,
                                     LookupLimits{.max_answer_bytes = config_.max_answer});
    store_service_ = StoreService::Create({.tables = tables_.get(),
                                           .pool = &pool_,
                                           .executor = &executor_,
                                           .in_flight = &in_flight_,
                                           .prefetcher = prefetcher_.get(),
                                           .limits = {.max_answer_bytes = config_.max_answer},
                                           .sharing = sharing});
    admin_service_ = AdminService::Create({.tables = tables_.get(),
                                           .in_flight = &in_flight_,
                                           .placer = placer_.get(),
                                           .hbm = &hbm_,
                                           .stopping = &stopping_,
                                           .snapshot = [this] { return Snapshot(); },
                                           .load_threads = config_.load_threads,
                                           .io_uring = config_.io_uring,
                                           .allow_tcp = config_.admin_tcp});
    ENGRAM_ASSIGN_OR_RETURN(
        grpc_,
        GrpcServer::Start({.listen = config_.listen, .max_request_bytes = config_.max_request},
                          store_service_.get(), admin_service_.get(), &in_flight_));
    for (const std::string& address : grpc_->addresses()) {
      ENGRAM_LOG(kInfo) << "grpc on " << address;
    }
    if (sharing.instance != 0) {
      ENGRAM_ASSIGN_OR_RETURN(handover_, HandoverServer::Start({.instance = sharing.instance,
                                                                .grpc_sockets = sockets,
                                                                .tables = tables_.get(),
                                                                .hbm = &hbm_,
                                                                .writable_dram = WritableDram()}));
    }
    adopted_check_ = std::make_unique<AdoptedCheck>(tables_.get());
    placer_->Start(tables_.get());  // last, so that Stop is called
    hbm_.Start(tables_.get());
    ready_ = true;
    return absl::OkStatus();
  }

  void Stop() {
    ready_ = false;
    stopping_ = true;
    // What is queued may be minutes of reading, and nobody is left to ask for it.
    prefetcher_->Stop();
    adopted_check_->Stop();
    grpc_->Shutdown(std::chrono::seconds(config_.drain_seconds));
    if (http_ != nullptr) http_->Stop();  // it asks the hand-over for numbers
    handover_.reset();
    placer_->Stop();
    hbm_.Stop();
    if (!config_.warm_restart) tables_->GiveUpDram();
  }

 private:
  std::vector<std::string> SocketsForSharing() const {
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

  Sharing PlanSharing(const std::vector<std::string>& sockets) const {
    if (!dram_.segments->shared()) return {.note = dram_.note};
    if (sockets.empty())
      return {.note = "it listens on no Unix socket (with a path of up to 103 bytes)"};
    return {.instance = HandoverServer::NewInstance(), .note = "", .writable_dram = WritableDram(), .hbm = &hbm_};
  }
  bool WritableDram() const { return config_.hbm_memory == "gpu-writable"; }

  DaemonSnapshot Snapshot() const {
    DaemonSnapshot snapshot;
    snapshot.daemon_version = std::string(EngramVersion());
    snapshot.uptime_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    snapshot.hbm_note = hbm_.note();
    snapshot.dram_budget_bytes = config_.dram_bytes;
    snapshot.hbm_budget_bytes = config_.hbm_bytes;
    // Acquire pairs with the store of ready_: what was made before it may be used after it.
    snapshot.ready = ready_.load(std::memory_order_acquire);
    if (snapshot.ready || stopping_.load(std::memory_order_acquire)) {
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
      snapshot.tables = tables_->Snapshot();
    }
    return snapshot;
  }

  const Config config_;
  const std::chrono::steady_clock::time_point start_;
  HbmCache hbm_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> stopping_{false};
  InFlight in_flight_;
  BufferPool pool_;
  WorkPool gather_helpers_;
  std::unique_ptr<Store> store_;
  DramSetup dram_;
  std::unique_ptr<WarmStart> placer_;
  std::unique_ptr<Tables> tables_;
  std::unique_ptr<AdoptedCheck> adopted_check_;
  std::unique_ptr<Prefetcher> prefetcher_;
  Executor executor_;
  std::unique_ptr<StoreService> store_service_;
  std::unique_ptr<AdminService> admin_service_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HandoverServer> handover_;
  std::unique_ptr<HttpServer> http_;
};

int Serve(Config config) {
  const sigset_t signals = BlockStopSignals();
  RaiseFileLimit();
  // A client that goes away in the middle of an answer is an error code, not a signal.
  signal(SIGPIPE, SIG_IGN);
  // gRPC allocates and frees large messages all the time; giving each back to the kernel costs
  // more than the gather.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 128 << 20);

  const int drain_seconds = config.drain_seconds;
  Daemon daemon(std::move(config));
  if (const absl::Status status = daemon.Start(); !status.ok()) {
    std::cerr << "engramd: " << status.message() << "\n";
    return 1;
  }
  std::cout << "engramd: ready" << std::endl;
  NotifyReady("serving");
  int signal = 0;
  sigwait(&signals, &signal);
  ENGRAM_LOG(kInfo) << "signal " << signal << ": finishing what is under way, for " << drain_seconds
                    << " s at most";
  NotifyStopping("finishing what is under way");
  daemon.Stop();
  ENGRAM_LOG(kInfo) << "stopped";
  return 0;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  absl::StatusOr<engram::CommandLine> command = engram::ParseCommandLine(argc, argv);
  if (!command.ok()) {
    std::cerr << "engramd: " << command.status().message() << "\n";
    return engram::ExitCode(command.status());
  }
  if (command->action == engram::CommandLine::Action::kPrint) {
    std::cout << command->text;
    return 0;
  }
  return engram::Serve(std::move(command->config));
}
