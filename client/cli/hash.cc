#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/row_output.h"
#include "client/cli/table_flags.h"
#include "client/cli/tokens.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct HashFlags {
  TableFlags table;
  TokenFlags tokens;
};

void PrintText(const HashedTokens& hashed) {
  for (size_t i = 0; i < hashed.ids.size(); ++i) {
    const bool last = (i + 1) % hashed.columns == 0;
    Print(absl::StrCat(SignedId(hashed.ids[i]), last ? "\n" : " "));
  }
}

void PrintAsJson(const TableDescription& table, const HashFlags& flags,
                 const HashedTokens& hashed) {
  nlohmann::ordered_json json;
  if (flags.table.served()) {
    json["table"] = table.name;
    json["version"] = table.version;
  }
  json["family"] = table.family;
  json["layer"] = flags.tokens.layer;
  json["rows"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < hashed.ids.size(); i += hashed.columns) {
    nlohmann::ordered_json position = nlohmann::ordered_json::array();
    for (size_t c = 0; c < hashed.columns; ++c) position.push_back(SignedId(hashed.ids[i + c]));
    json["rows"].push_back(std::move(position));
  }
  // A line for each of the ids would be of no use to anybody.
  PrintJson(json, /*compact=*/true);
}

absl::Status Run(const CommandLine& line, const HashFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(TableAndMap table, FindTable(line, flags.table, flags.tokens.compressed));
  ENGRAM_ASSIGN_OR_RETURN(const HashedTokens hashed,
                          HashTokens(table.description, std::move(table.token_map), flags.tokens));
  if (line.json) {
    PrintAsJson(table.description, flags, hashed);
  } else {
    PrintText(hashed);
  }
  return absl::OkStatus();
}

}  // namespace

void AddHashCommand(CommandLine& line) {
  const auto flags = std::make_shared<HashFlags>();
  CLI::App* command = AddCommand(line, "hash",
                                 "Prints the row ids that tokens ask for, a line for each token: "
                                 "of a table that is served, or of a model's config without a "
                                 "server",
                                 [&line, flags] { return Run(line, *flags); });
  AddTableFlags(*command, flags->table);
  AddTokenFlags(*command, flags->tokens);
  command->parse_complete_callback([&line, flags] {
    SettleTableFlags(flags->table, line);
    SettleTokenFlags(flags->tokens);
  });
}

}  // namespace engram
