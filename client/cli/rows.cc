#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/command.h"
#include "client/cli/row_output.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct RowsFlags {
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

absl::Status Run(const CommandLine& line, const RowsFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(std::vector<uint32_t> ids, ParseIds(flags.ids));
  ENGRAM_ASSIGN_OR_RETURN(const auto client, ConnectClient(line));
  ENGRAM_ASSIGN_OR_RETURN(const TableDescription table,
                          client->Describe(flags.name, flags.version));
  ENGRAM_ASSIGN_OR_RETURN(FetchedRows rows, FetchedRows::For(table, flags.layer, std::move(ids)));
  LookupRequest request;
  request.table = flags.name;
  request.version = table.version;  // the active one may change in between
  request.expect_table_digest = table.table_digest;
  request.layers.push_back(
      {flags.layer, rows.ids, absl::MakeSpan(rows.bytes), absl::MakeSpan(rows.tiers)});
  ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client->Lookup(request));
  rows.version = answer.version;
  PrintRows(rows, line.json);
  return absl::OkStatus();
}

}  // namespace

void AddRowsCommand(CommandLine& line) {
  const auto flags = std::make_shared<RowsFlags>();
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
