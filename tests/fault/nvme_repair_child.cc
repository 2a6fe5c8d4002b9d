// A repair that dies: `nvme_repair_child DIRECTORY N` writes every chunk of the table in DIRECTORY
// anew, the last one first, and at the N-th thing that it does to the file system kills itself with
// SIGKILL. With N = 0 it finishes and prints how many things it did. nvme_repair_kill_test runs it.
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

absl::Status RepairAll(Store& store, const TableSpec& spec) {
  const absl::StatusOr<TableRecord> record = store.Find(spec.name, spec.version);
  if (!record.ok()) return record.status();
  const std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> rows{0};
  for (auto chunk = record->chunks.rbegin(); chunk != record->chunks.rend(); ++chunk) {
    const absl::Status status =
        store.RepairChunk(spec.name, spec.version, *chunk, RowGenerator{spec}, cancelled, rows);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

int Main(const std::string& directory, uint64_t kill_at) {
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
  absl::Status status = store.status();
  if (status.ok()) status = RepairAll(**store, KillSpec());
  if (store.ok()) store->reset();
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
  if (argc != 3) return 2;
  return engram::Main(argv[1], std::strtoull(argv[2], nullptr, 10));
}
