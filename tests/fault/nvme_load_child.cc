// A process that dies: `nvme_load_child DIRECTORY N load|drop|repair` loads a table in DIRECTORY
// (and with `drop` then drops it; with `repair` it writes every chunk of the table that is there
// anew, the last one first), and at the N-th thing that it does to the file system kills itself
// with SIGKILL. With N = 0 it finishes and prints how many things it did. The kill tests run it.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

#include "tests/fault/fault_file_system.h"
#include "tests/fault/nvme_load_child.h"

namespace engram {
namespace {

absl::Status Do(Store& store, const std::string& verb) {
  const TableSpec spec = KillSpec();
  if (verb == "repair") return RepairAll(store, spec);
  absl::Status status = Load(store, spec).status();
  if (absl::IsAlreadyExists(status)) status = absl::OkStatus();
  if (status.ok() && verb == "drop") status = store.Drop(spec.name, spec.version);
  return status;
}

int Main(const std::string& directory, uint64_t kill_at, const std::string& verb) {
  std::atomic<uint64_t> events{0};
  const auto event = [&] {
    if (events.fetch_add(1) + 1 == kill_at) ::kill(::getpid(), SIGKILL);
  };
  StoreInternals internals = SmallChunks();
  internals.on_step = [&](const char*) { event(); };
  internals.wrap = [&](std::shared_ptr<rocksdb::FileSystem> base) {
    return std::make_shared<FaultFileSystem>(std::move(base),
                                             [&](FileOp op, const std::string&, uint64_t, size_t) {
                                               if (op != FileOp::kRead) event();
                                               return rocksdb::IOStatus::OK();
                                             });
  };
  StoreOptions options;
  options.directory = directory;
  absl::StatusOr<std::unique_ptr<Store>> store = OpenStore(options, internals);
  if (!store.ok()) {
    std::cerr << store.status() << "\n";
    return 1;
  }
  const absl::Status status = Do(**store, verb);
  store->reset();
  if (!status.ok()) {
    std::cerr << status << "\n";
    return 1;
  }
  std::cout << events.load() << std::endl;
  return 0;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return engram::Main(argv[1], std::strtoull(argv[2], nullptr, 10), argv[3]);
}
