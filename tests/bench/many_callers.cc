#include "tests/bench/many_callers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "storage/base/mutex.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/cold_lookups.h"

namespace engram::bench {
namespace {

// A fair share of a drive that sixty others use takes seconds.
constexpr std::chrono::milliseconds kCallDeadline{120000};
constexpr std::chrono::seconds kConnectPatience{30};
constexpr char kCalling[] = "calling";

using Counter = std::atomic<uint64_t>;

absl::StatusOr<Counter*> MapCounter(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid() || ::ftruncate(fd.get(), sizeof(Counter)) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make ", path));
  }
  void* const memory =
      ::mmap(nullptr, sizeof(Counter), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return absl::UnavailableError(absl::StrCat("cannot map ", path));
  return static_cast<Counter*>(memory);
}

// What all callers of the process share.
struct Shared {
  Counter* rows = nullptr;
  std::atomic<bool> stopping{false};
  Mutex mutex;
  CondVar changed;
  int busy ABSL_GUARDED_BY(mutex) = 0;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

class Caller {
 public:
  Caller(Shared* shared, std::unique_ptr<Client> client, const TableShape& shape, size_t rows,
         uint64_t seed)
      : shared_(*shared),
        client_(std::move(client)),
        shape_(shape),
        rows_per_call_(rows),
        rows_(rows * shape.row_bytes),
        random_(seed) {}

  void Send() {
    layer_ = AnyLayer(shape_, random_);
    ids_ = RowIds::Uniform(shape_, layer_, rows_per_call_, random_);
    LookupRequest request{.table = kTableName, .deadline = kCallDeadline};
    request.layers.push_back({.layer = kLayers[layer_],
                              .row_ids = ids_.of(layer_),
                              .out = absl::MakeSpan(rows_),
                              .tiers = {}});
    client_->LookupAsync(
        request, [this](const absl::StatusOr<LookupAnswer>& answer) { Answered(answer.status()); });
  }

 private:
  void Answered(absl::Status status) {
    if (status.ok()) {
      status =
          CheckRows(kLayers[layer_], shape_.row_bytes, ids_.of(layer_), absl::MakeConstSpan(rows_));
    }
    if (status.ok()) {
      shared_.rows->fetch_add(rows_per_call_, std::memory_order_relaxed);
      if (!shared_.stopping.load(std::memory_order_relaxed)) return Send();
    }
    MutexLock lock(shared_.mutex);
    shared_.status.Update(status);
    --shared_.busy;
    shared_.changed.NotifyAll();
  }

  Shared& shared_;
  const std::unique_ptr<Client> client_;
  const TableShape shape_;
  const size_t rows_per_call_;
  std::vector<std::byte> rows_;
  std::mt19937_64 random_;
  size_t layer_ = 0;
  RowIds ids_;
};

absl::Status Call(const ManyCallers::Load& load, const TableShape& shape, Counter* counter) {
  Shared shared;
  shared.rows = counter;
  std::vector<std::unique_ptr<Caller>> callers;
  for (int i = 0; i < load.clients; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(
        auto client, Client::Connect({.target = load.target, .transport = TransportKind::kGrpc}));
    callers.push_back(std::make_unique<Caller>(&shared, std::move(client), shape,
                                               load.rows_per_call, load.seed * 1000 + i));
  }
  {
    MutexLock lock(shared.mutex);
    shared.busy = load.clients;
  }
  for (const auto& caller : callers) caller->Send();
  std::cout << kCalling << std::endl;
  MutexLock lock(shared.mutex);
  while (!Interrupted() && shared.status.ok()) {
    shared.changed.WaitFor(shared.mutex, std::chrono::milliseconds(20));
  }
  shared.stopping.store(true, std::memory_order_relaxed);
  while (shared.busy > 0) shared.changed.Wait(shared.mutex);
  return shared.status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ManyCallers>> ManyCallers::Start(const ScratchDirectory& scratch,
                                                                const Load& load) {
  std::unique_ptr<ManyCallers> callers(new ManyCallers());
  const std::string counter = scratch.File("rows");
  ENGRAM_ASSIGN_OR_RETURN(callers->rows_, MapCounter(counter));
  ENGRAM_ASSIGN_OR_RETURN(const std::string program, SiblingProgram("engram_bench"));
  std::vector<std::string> argv = {program,
                                   "--call",
                                   load.target,
                                   "--call-clients",
                                   absl::StrCat(load.clients),
                                   "--call-rows",
                                   absl::StrCat(load.rows_per_call),
                                   "--call-seed",
                                   absl::StrCat(load.seed),
                                   "--call-counter",
                                   counter};
  if (load.table.table_bytes > 0) {
    argv.insert(argv.end(), {"--table-bytes", absl::StrCat(load.table.table_bytes, "B")});
  }
  if (load.table.quick) argv.emplace_back("--quick");
  ENGRAM_ASSIGN_OR_RETURN(callers->process_,
                          ChildProcess::Start(argv, scratch.File("callers.log")));
  ENGRAM_RETURN_IF_ERROR(callers->process_->WaitForLine(kCalling, kConnectPatience));
  return callers;
}

ManyCallers::~ManyCallers() {
  process_.reset();
  if (rows_ != nullptr) ::munmap(rows_, sizeof(*rows_));
}

int ManyCallers::Main(const Load& load, const TableShape& shape, const std::string& counter) {
  CatchInterrupts();
  const absl::StatusOr<Counter*> rows = MapCounter(counter);
  const absl::Status status = rows.ok() ? Call(load, shape, *rows) : rows.status();
  if (status.ok()) return 0;
  std::cerr << "engram_bench: --call: " << status.message() << "\n";
  return 1;
}

}  // namespace engram::bench
