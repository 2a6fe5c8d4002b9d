#include "server/local/client_telemetry.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <limits>
#include <map>
#include <utility>
#include <vector>

namespace engram {

std::unique_ptr<ClientTelemetry> ClientTelemetry::Create() {
  UniqueFd file(::memfd_create("engram-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid() || ::ftruncate(file.get(), dram::kRingBytes) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return nullptr;
  }
  void* const memory =
      ::mmap(nullptr, dram::kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) return nullptr;
  return std::unique_ptr<ClientTelemetry>(
      new ClientTelemetry(std::move(file), static_cast<dram::AccessRing*>(memory)));
}

ClientTelemetry::~ClientTelemetry() { ::munmap(ring_, dram::kRingBytes); }

void ClientTelemetry::Read(const Tables& tables) {
  struct Report {
    dram::RingReader::Counts counts;
    std::vector<RowId> sample;
  };
  std::map<uint64_t, Report> reports;  // by stack; several cells may name the same
  reader_.Read(
      [&](uint64_t stack, const dram::RingReader::Counts& counts) {
        dram::RingReader::Counts& sum = reports[stack].counts;
        sum.rows += counts.rows;
        sum.calls += counts.calls;
        sum.hbm_rows += counts.hbm_rows;
      },
      [&](uint64_t stack, uint32_t row_id) { reports[stack].sample.push_back(RowId{row_id}); });
  for (const auto& [id, report] : reports) {
    if (id == 0 || id > std::numeric_limits<uint32_t>::max()) continue;
    const Tables::SharedStack found = tables.FindStack(static_cast<uint32_t>(id));
    if (found.stack == nullptr) continue;
    found.stack->CountShared(report.counts.hbm_rows, report.counts.rows, report.sample);
    found.table->probe->lookups.fetch_add(report.counts.calls, std::memory_order_relaxed);
  }
}

}  // namespace engram
