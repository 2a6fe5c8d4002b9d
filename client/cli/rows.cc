#include <CLI/CLI.hpp>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct Flags {
  std::string name;
  uint64_t version = 0;
  int32_t layer = 0;
  std::string ids;
};

// −1, the dead position, or 0 to 4294967294.
absl::StatusOr<std::vector<uint32_t>> ParseIds(absl::string_view text) {
  std::vector<uint32_t> ids;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(part, &id) || id < -1 || id >= int64_t{kDeadPosition}) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", part, "\" is not a row id: give numbers of 0 to 4294967294, or -1, with commas"));
    }
    ids.push_back(static_cast<uint32_t>(id));
  }
  return ids;
}

std::string CheckIds(const std::string& text) {
  const auto ids = ParseIds(text);
  return ids.ok() ? std::string() : std::string(ids.status().message());
}

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

int64_t Signed(uint32_t id) { return id == kDeadPosition ? -1 : int64_t{id}; }

struct Rows {
  std::vector<uint32_t> ids;
  std::vector<std::byte> bytes;
  std::vector<uint8_t> tiers;
  size_t row_bytes = 0;

  std::string Hex(size_t position) const {
    const char* row = reinterpret_cast<const char*>(bytes.data()) + position * row_bytes;
    return absl::BytesToHexString(absl::string_view(row, row_bytes));
  }
};

absl::StatusOr<size_t> RowBytes(const TableDescription& table, int32_t wanted) {
  std::string there;
  for (const LayerInfo& layer : table.layers) {
    if (layer.layer == wanted) return layer.row_bytes;
    absl::StrAppend(&there, there.empty() ? "" : ", ", layer.layer);
  }
  return absl::NotFoundError(
      absl::StrCat("table \"", table.name, "\" has no layer ", wanted, "; it has ", there));
}

absl::Status Run(const CommandLine& line, const Flags& flags) {
  Rows rows;
  ENGRAM_ASSIGN_OR_RETURN(rows.ids, ParseIds(flags.ids));
  ENGRAM_ASSIGN_OR_RETURN(const auto client, ConnectClient(line));
  ENGRAM_ASSIGN_OR_RETURN(const TableDescription table,
                          client->Describe(flags.name, flags.version));
  ENGRAM_ASSIGN_OR_RETURN(rows.row_bytes, RowBytes(table, flags.layer));
  rows.bytes.resize(rows.ids.size() * rows.row_bytes);
  rows.tiers.resize(rows.ids.size());
  LookupRequest request;
  request.table = flags.name;
  request.version = table.version;  // the active one may change in between
  request.layers.push_back(
      {flags.layer, rows.ids, absl::MakeSpan(rows.bytes), absl::MakeSpan(rows.tiers)});
  ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client->Lookup(request));
  if (!line.json) {
    for (size_t i = 0; i < rows.ids.size(); ++i) {
      Print(absl::StrCat(Signed(rows.ids[i]), " ", rows.Hex(i), "\n"));
    }
    return absl::OkStatus();
  }
  nlohmann::ordered_json json;
  json["table"] = flags.name;
  json["version"] = answer.version;
  json["layer"] = flags.layer;
  json["rows"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < rows.ids.size(); ++i) {
    nlohmann::ordered_json row;
    row["id"] = Signed(rows.ids[i]);
    row["hex"] = rows.Hex(i);
    row["tier"] = TierText(rows.tiers[i]);
    json["rows"].push_back(std::move(row));
  }
  PrintJson(json);
  return absl::OkStatus();
}

}  // namespace

void AddRowsCommand(CommandLine& line) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = AddCommand(line, "rows", "Prints rows by id: one `ID HEX` a line",
                                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  command->add_option("--layer", flags->layer, "the model config's own number")->required();
  command->add_option("--ids", flags->ids, "row ids with commas; -1 gives a row of zeros")
      ->required()
      ->check(CheckIds);
  command->add_option("--version", flags->version, "version (default: the active one)")
      ->check(CheckVersion);
}

}  // namespace engram
