#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/row_output.h"
#include "client/cli/tokens.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct LookupFlags {
  std::string name;
  uint64_t version = 0;
  TokenFlags tokens;
};

// The daemon hashes the tokens for the rows; we hash them only to print whose rows they are.
absl::Status Run(const CommandLine& line, const LookupFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const auto client, ConnectClient(line));
  ENGRAM_ASSIGN_OR_RETURN(const TableDescription table,
                          client->Describe(flags.name, flags.version));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> token_map,
                          TokenMapFor(*client, table, flags.tokens.compressed));
  ENGRAM_ASSIGN_OR_RETURN(HashedTokens hashed,
                          HashTokens(table, std::move(token_map), flags.tokens));
  ENGRAM_ASSIGN_OR_RETURN(FetchedRows rows,
                          FetchedRows::For(table, flags.tokens.layer, std::move(hashed.ids)));
  LookupRequest request;
  request.table = flags.name;
  request.version = table.version;  // the active one may change in between
  request.expect_table_digest = table.table_digest;
  request.tokens = hashed.batch();
  request.layers.push_back(
      {flags.tokens.layer, {}, absl::MakeSpan(rows.bytes), absl::MakeSpan(rows.tiers)});
  ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client->Lookup(request));
  rows.version = answer.version;
  PrintRows(rows, line.json);
  return absl::OkStatus();
}

}  // namespace

void AddLookupCommand(CommandLine& line) {
  const auto flags = std::make_shared<LookupFlags>();
  CLI::App* command = AddCommand(
      line, "lookup",
      "Prints the rows that tokens ask for, token by token in column order: one `ID HEX` a line",
      [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  AddTokenFlags(*command, flags->tokens);
  command->add_option("--version", flags->version, "version (default: the active one)")
      ->check(CheckVersion);
}

}  // namespace engram
