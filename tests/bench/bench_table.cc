#include "tests/bench/bench_table.h"

#include <numeric>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram::bench {
namespace {

constexpr uint64_t kQuickBytes = uint64_t{16} << 20;
constexpr std::chrono::seconds kDeadline{60};

}  // namespace

void TablePlan::Describe(Result& result) const {
  result.details.emplace_back("table_bytes", static_cast<int64_t>(shape.Bytes()));
  if (small) result.details.emplace_back("small", true);
  if (quick) result.details.emplace_back("quick", true);
}

absl::StatusOr<TablePlan> PlanTable(const BenchOptions& options, uint64_t suite_bytes) {
  uint64_t bytes = options.quick ? kQuickBytes : suite_bytes;
  if (options.table_bytes > 0) bytes = options.table_bytes;
  TablePlan plan{.shape = {}, .small = bytes < suite_bytes, .quick = options.quick};
  ENGRAM_ASSIGN_OR_RETURN(plan.shape, ShapeFor(bytes));
  return plan;
}

RowIds RowIds::Distinct(const TableShape& shape, size_t rows, std::mt19937_64& random) {
  RowIds result;
  for (size_t i = 0; i < kLayers.size(); ++i) {
    const size_t share = rows / kLayers.size() + (i < rows % kLayers.size() ? 1 : 0);
    std::uniform_int_distribution<uint32_t> any(0, static_cast<uint32_t>(shape.rows[i] - 1));
    std::unordered_set<uint32_t> seen;
    while (seen.size() < share) {
      const uint32_t id = any(random);
      if (seen.insert(id).second) result.ids_.push_back(id);
    }
    result.counts_[i] = share;
  }
  return result;
}

RowIds RowIds::Uniform(const TableShape& shape, size_t index, size_t rows,
                       std::mt19937_64& random) {
  std::uniform_int_distribution<uint32_t> any(0, static_cast<uint32_t>(shape.rows[index] - 1));
  RowIds result;
  result.ids_.resize(rows);
  for (uint32_t& id : result.ids_) id = any(random);
  result.counts_[index] = rows;
  return result;
}

RowIds RowIds::From(const std::array<std::vector<uint32_t>, kLayers.size()>& given, size_t rows,
                    std::mt19937_64& random) {
  RowIds result;
  for (size_t i = 0; i < kLayers.size(); ++i) {
    const size_t share = rows / kLayers.size() + (i < rows % kLayers.size() ? 1 : 0);
    std::uniform_int_distribution<size_t> any(0, given[i].size() - 1);
    for (size_t j = 0; j < share; ++j) result.ids_.push_back(given[i][any(random)]);
    result.counts_[i] = share;
  }
  return result;
}

RowIds RowIds::Range(size_t index, uint32_t first, size_t rows) {
  RowIds result;
  result.ids_.resize(rows);
  std::iota(result.ids_.begin(), result.ids_.end(), first);
  result.counts_[index] = rows;
  return result;
}

absl::Span<const uint32_t> RowIds::of(size_t index) const {
  size_t begin = 0;
  for (size_t i = 0; i < index; ++i) begin += counts_[i];
  return absl::MakeConstSpan(ids_).subspan(begin, counts_[index]);
}

absl::StatusOr<std::unique_ptr<RowCaller>> RowCaller::Connect(const std::string& target,
                                                              size_t max_rows, uint32_t row_bytes,
                                                              TransportKind transport) {
  ENGRAM_ASSIGN_OR_RETURN(
      std::unique_ptr<Client> client,
      Client::Connect({.target = target, .default_deadline = kDeadline, .transport = transport}));
  return std::unique_ptr<RowCaller>(new RowCaller(std::move(client), max_rows, row_bytes));
}

absl::Status RowCaller::Call(const RowIds& ids, Expect expect) {
  LookupRequest request{.table = kTableName};
  std::byte* out = rows_.data();
  for (size_t i = 0; i < kLayers.size(); ++i) {
    const absl::Span<const uint32_t> part = ids.of(i);
    if (part.empty()) continue;
    const size_t bytes = part.size() * row_bytes_;
    request.layers.push_back(
        {.layer = kLayers[i], .row_ids = part, .out = absl::MakeSpan(out, bytes), .tiers = {}});
    out += bytes;
  }
  ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client_->Lookup(request));
  uint64_t nvme_rows = 0;
  dram_rows_ = 0;
  for (const LayerAnswer& layer : answer.layers) {
    dram_rows_ += layer.dram_rows;
    nvme_rows += layer.nvme_rows;
  }
  const uint64_t wanted = ids.all().size();
  const uint64_t found = expect == Expect::kDramOnly   ? dram_rows_
                         : expect == Expect::kNvmeOnly ? nvme_rows
                                                       : dram_rows_ + nvme_rows;
  if (found == wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("of ", wanted, " rows ", dram_rows_,
                                                    " came from dram and ", nvme_rows,
                                                    " from nvme: this is not what is measured"));
}

absl::Status RowCaller::Check(const RowIds& ids) const {
  const std::byte* rows = rows_.data();
  for (size_t i = 0; i < kLayers.size(); ++i) {
    const absl::Span<const uint32_t> part = ids.of(i);
    const size_t bytes = part.size() * row_bytes_;
    ENGRAM_RETURN_IF_ERROR(
        CheckRows(kLayers[i], row_bytes_, part, absl::MakeConstSpan(rows, bytes)));
    rows += bytes;
  }
  return absl::OkStatus();
}

}  // namespace engram::bench
