#include "client/cli/row_output.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/cli/output.h"

namespace engram {
namespace {

const char* TierText(uint8_t tier) {
  switch (tier) {
    case 0:
      return "hbm";
    case 1:
      return "dram";
    case 2:
      return "nvme";
    default:
      return "none";
  }
}

std::string Hex(const FetchedRows& rows, size_t position) {
  const char* row = reinterpret_cast<const char*>(rows.bytes.data()) + position * rows.row_bytes;
  return absl::BytesToHexString(absl::string_view(row, rows.row_bytes));
}

}  // namespace

absl::StatusOr<FetchedRows> FetchedRows::For(const TableDescription& table, int32_t layer,
                                             std::vector<uint32_t> ids) {
  FetchedRows rows;
  std::string there;
  for (const LayerInfo& info : table.layers) {
    if (info.layer == layer) rows.row_bytes = info.row_bytes;
    absl::StrAppend(&there, there.empty() ? "" : ", ", info.layer);
  }
  if (rows.row_bytes == 0) {
    return absl::NotFoundError(
        absl::StrCat("table \"", table.name, "\" has no layer ", layer, "; it has ", there));
  }
  rows.table = table.name;
  rows.layer = layer;
  rows.bytes.resize(ids.size() * rows.row_bytes);
  rows.tiers.resize(ids.size());
  rows.ids = std::move(ids);
  return rows;
}

int64_t SignedId(uint32_t id) { return id == kDeadPosition ? -1 : int64_t{id}; }

void PrintRows(const FetchedRows& rows, bool json) {
  if (!json) {
    for (size_t i = 0; i < rows.ids.size(); ++i) {
      Print(absl::StrCat(SignedId(rows.ids[i]), " ", Hex(rows, i), "\n"));
    }
    return;
  }
  nlohmann::ordered_json document;
  document["table"] = rows.table;
  document["version"] = rows.version;
  document["layer"] = rows.layer;
  document["rows"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < rows.ids.size(); ++i) {
    nlohmann::ordered_json row;
    row["id"] = SignedId(rows.ids[i]);
    row["hex"] = Hex(rows, i);
    row["tier"] = TierText(rows.tiers[i]);
    document["rows"].push_back(std::move(row));
  }
  PrintJson(document);
}

}  // namespace engram
