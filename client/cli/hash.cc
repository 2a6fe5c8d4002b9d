#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/row_output.h"
#include "client/cli/tokens.h"
#include "client/table_description.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/family.h"

namespace engram {
namespace {

struct Flags {
  std::string name;
  uint64_t version = 0;
  CLI::Option* config = nullptr;
  std::string model_config;
  std::string model = "auto";
  bool allow_unverified = false;
  TokenFlags tokens;
};

// A table and its token map, which is empty where none is needed or there is none.
struct Table {
  TableDescription description;
  std::vector<int32_t> token_map;
};

absl::StatusOr<Table> FromServer(const CommandLine& line, const Flags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const auto client, ConnectClient(line));
  Table table;
  ENGRAM_ASSIGN_OR_RETURN(table.description, client->Describe(flags.name, flags.version));
  ENGRAM_ASSIGN_OR_RETURN(table.token_map, TokenMapFor(*client, table.description, flags.tokens));
  return table;
}

absl::StatusOr<Table> FromDirectory(const Flags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(
      const ModelAddressing model,
      ReadModel(flags.model_config, flags.model, flags.allow_unverified,
                flags.tokens.compressed ? TokenIds::kCompressed : TokenIds::kRaw));
  Table table;
  table.description = DescriptionFromSpec(model.spec);
  table.description.name = flags.model_config;  // for errors
  if (model.map.has_value()) {
    table.token_map.assign(model.map->compressed().begin(), model.map->compressed().end());
  }
  return table;
}

void PrintText(const HashedTokens& hashed) {
  for (size_t i = 0; i < hashed.ids.size(); ++i) {
    const bool last = (i + 1) % hashed.columns == 0;
    Print(absl::StrCat(SignedId(hashed.ids[i]), last ? "\n" : " "));
  }
}

void PrintAsJson(const TableDescription& table, const Flags& flags, const HashedTokens& hashed) {
  nlohmann::ordered_json json;
  if (flags.config->count() == 0) {
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

absl::Status Run(const CommandLine& line, const Flags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(
      Table table, flags.config->count() > 0 ? FromDirectory(flags) : FromServer(line, flags));
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
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = AddCommand(line, "hash",
                                 "Prints the row ids that tokens ask for, a line for each token: "
                                 "of a table that is served, or of a model's config without a "
                                 "server",
                                 [&line, flags] { return Run(line, *flags); });
  CLI::Option* name =
      command->add_option("NAME", flags->name, "the table; or --model-config instead");
  flags->config =
      command
          ->add_option("--model-config", flags->model_config,
                       "directory with the model's config.json and, to hash raw ids that are to be "
                       "compressed, its tokenizer.json; no server is asked")
          ->excludes(name);
  AddTokenFlags(*command, flags->tokens);
  command->parse_complete_callback([&line, name, flags] {
    if (name->count() + flags->config->count() == 0) {
      throw CLI::RequiredError("NAME or --model-config");
    }
    line.offline = flags->config->count() > 0;
    SettleTokenFlags(flags->tokens);
  });
  command->add_option("--version", flags->version, "version (default: the active one)")
      ->needs(name)
      ->check(CheckVersion);
  command->add_option("--model", flags->model, "model family of the config")
      ->needs(flags->config)
      ->check(CLI::IsMember(ModelNames()))
      ->capture_default_str();
  command
      ->add_flag("--allow-unverified", flags->allow_unverified,
                 "hash for a model whose addressing no test vector has proved")
      ->needs(flags->config);
}

}  // namespace engram
