#include "tests/bench/warm_table.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram::bench {
namespace {

constexpr size_t kBatch = 8192;
constexpr uint8_t kDramTier = 1;  // in LayerRequest::tiers

constexpr int kMostPasses = 50;
constexpr int kGoodLooks = 4;
constexpr std::chrono::milliseconds kBetweenLooks{100};

// Looks the rows up and leaves those that DRAM has served.
absl::Status KeepServed(Client& client, int32_t layer, std::vector<uint32_t>& ids,
                        absl::Span<std::byte> rows) {
  const size_t row_bytes = rows.size() / kBatch;
  std::vector<uint32_t> kept;
  for (size_t first = 0; first < ids.size(); first += kBatch) {
    const auto some = absl::MakeConstSpan(ids).subspan(first, kBatch);
    std::vector<uint8_t> tiers(some.size());
    LookupRequest request{.table = kTableName};
    request.layers = {{.layer = layer,
                       .row_ids = some,
                       .out = rows.first(some.size() * row_bytes),
                       .tiers = absl::MakeSpan(tiers)}};
    ENGRAM_RETURN_IF_ERROR(client.Lookup(request).status());
    for (size_t i = 0; i < some.size(); ++i) {
      if (tiers[i] == kDramTier) kept.push_back(some[i]);
    }
  }
  ids = std::move(kept);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<WarmTable>> WarmTable::Create(const ScratchDirectory& scratch,
                                                             const TablePlan& plan,
                                                             uint64_t dram_bytes,
                                                             const std::string& name) {
  std::unique_ptr<WarmTable> table(new WarmTable(scratch, plan, dram_bytes, name));
  const std::string checkpoint = scratch.File("checkpoint");
  if (::access(checkpoint.c_str(), F_OK) != 0) {
    ENGRAM_RETURN_IF_ERROR(WriteCheckpoint(plan.shape, checkpoint));
  }
  ENGRAM_ASSIGN_OR_RETURN(table->daemon_, Daemon::Start(scratch, dram_bytes, {}, name));
  ENGRAM_RETURN_IF_ERROR(table->daemon_->Load(kTableName, checkpoint).status());
  const Clock::time_point start = Clock::now();
  ENGRAM_RETURN_IF_ERROR(table->Fill(/*check=*/false));
  table->fill_seconds_ = SecondsSince(start);
  ENGRAM_RETURN_IF_ERROR(table->Fill(/*check=*/true));
  ENGRAM_RETURN_IF_ERROR(table->FindHeld());
  return table;
}

absl::Status WarmTable::Fill(bool check) {
  ENGRAM_ASSIGN_OR_RETURN(const auto caller, RowCaller::Connect(daemon_->target(), kBatch));
  for (size_t i = 0; i < kLayers.size(); ++i) {
    for (uint64_t first = 0; first < plan_.shape.rows[i]; first += kBatch) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      const size_t rows = std::min<uint64_t>(kBatch, plan_.shape.rows[i] - first);
      const RowIds ids = RowIds::Range(i, static_cast<uint32_t>(first), rows);
      ENGRAM_RETURN_IF_ERROR(caller->Call(ids, RowCaller::Expect::kAnyTier));
      if (check) ENGRAM_RETURN_IF_ERROR(caller->Check(ids));
    }
  }
  return absl::OkStatus();
}

// Asks for all rows, then for those that DRAM has served, and so on: what is asked for and missing
// comes in for another, but is not asked for again. It comes in after its answer, maybe a while
// later on a busy machine; so it takes several looks in a row, some time apart, that miss nothing.
absl::Status WarmTable::FindHeld() {
  ENGRAM_ASSIGN_OR_RETURN(
      const std::unique_ptr<Client> client,
      Client::Connect({.target = daemon_->target(), .transport = TransportKind::kShm}));
  std::vector<std::byte> rows(kBatch * plan_.shape.row_bytes);
  for (size_t i = 0; i < kLayers.size(); ++i) {
    std::vector<uint32_t>& held = held_[i];
    held.resize(plan_.shape.rows[i]);
    std::iota(held.begin(), held.end(), 0);
    int good_looks = 0;
    for (int pass = 0; good_looks < kGoodLooks; ++pass) {
      ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
      if (pass == kMostPasses) return absl::InternalError("DRAM does not come to rest");
      const size_t asked = held.size();
      ENGRAM_RETURN_IF_ERROR(KeepServed(*client, kLayers[i], held, absl::MakeSpan(rows)));
      good_looks = held.size() == asked ? good_looks + 1 : 0;
      if (good_looks > 0) std::this_thread::sleep_for(kBetweenLooks);
    }
    if (!held.empty()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("DRAM holds no row of layer ", kLayers[i], " after all were looked up"));
  }
  return absl::OkStatus();
}

RowIds WarmTable::Draw(size_t rows, std::mt19937_64& random) const {
  return RowIds::From(held_, rows, random);
}

absl::StatusOr<double> WarmTable::Restart(bool kill) {
  if (kill) {
    ENGRAM_RETURN_IF_ERROR(daemon_->process().Kill());
  } else {
    ENGRAM_RETURN_IF_ERROR(daemon_->process().Stop());
  }
  daemon_.reset();
  const Clock::time_point start = Clock::now();
  ENGRAM_ASSIGN_OR_RETURN(daemon_, Daemon::Start(scratch_, dram_bytes_, {}, name_));
  std::mt19937_64 random(1);
  const RowIds ids = Draw(kLayers.size(), random);
  ENGRAM_ASSIGN_OR_RETURN(const auto caller, RowCaller::Connect(daemon_->target(), kBatch));
  ENGRAM_RETURN_IF_ERROR(caller->Call(ids, RowCaller::Expect::kDramOnly));
  const double seconds = SecondsSince(start);
  ENGRAM_RETURN_IF_ERROR(caller->Check(ids));
  return seconds;
}

}  // namespace engram::bench
