#include "client/cli/table_flags.h"

#include <CLI/CLI.hpp>

#include "client/cli/tokens.h"
#include "client/grpc/table_description.h"
#include "storage/base/status_macros.h"
#include "storage/checkpoint/family.h"

namespace engram {
namespace {

absl::StatusOr<TableAndMap> FromServer(const CommandLine& line, const TableFlags& flags,
                                       bool compressed) {
  ENGRAM_ASSIGN_OR_RETURN(const auto client, ConnectClient(line));
  TableAndMap table;
  ENGRAM_ASSIGN_OR_RETURN(table.description, client->Describe(flags.name, flags.version));
  ENGRAM_ASSIGN_OR_RETURN(table.token_map, TokenMapFor(*client, table.description, compressed));
  return table;
}

absl::StatusOr<TableAndMap> FromDirectory(const TableFlags& flags, bool compressed) {
  ENGRAM_ASSIGN_OR_RETURN(const ModelAddressing model,
                          ReadModel(flags.model_config, flags.model, flags.allow_unverified,
                                    compressed ? TokenIds::kCompressed : TokenIds::kRaw));
  TableAndMap table;
  table.description = DescriptionFromSpec(model.spec);
  table.description.name = flags.model_config;  // for errors
  if (model.map.has_value()) {
    table.token_map.assign(model.map->compressed().begin(), model.map->compressed().end());
  }
  return table;
}

}  // namespace

void AddTableFlags(CLI::App& command, TableFlags& flags) {
  CLI::Option* name =
      command.add_option("NAME", flags.name, "the table; or --model-config instead");
  CLI::Option* config =
      command
          .add_option("--model-config", flags.model_config,
                      "directory with the model's config.json and, to hash raw ids that are to be "
                      "compressed, its tokenizer.json; no server is asked")
          ->excludes(name)
          ->check([](const std::string& text) {
            return text.empty() ? std::string("an empty name is no directory") : std::string();
          });
  command.add_option("--version", flags.version, "version (default: the active one)")
      ->needs(name)
      ->check(CheckVersion);
  command.add_option("--model", flags.model, "model family of the config")
      ->needs(config)
      ->check(CLI::IsMember(ModelNames()))
      ->capture_default_str();
  command
      .add_flag("--allow-unverified", flags.allow_unverified,
                "hash for a model whose addressing no test vector has proved")
      ->needs(config);
}

void SettleTableFlags(const TableFlags& flags, CommandLine& line) {
  if (flags.name.empty() && flags.served()) throw CLI::RequiredError("NAME or --model-config");
  line.offline = !flags.served();
}

absl::StatusOr<TableAndMap> FindTable(const CommandLine& line, const TableFlags& flags,
                                      bool compressed) {
  return flags.served() ? FromServer(line, flags, compressed) : FromDirectory(flags, compressed);
}

}  // namespace engram
