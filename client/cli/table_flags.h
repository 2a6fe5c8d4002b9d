// A table on the command line: NAME of a server's, or the directory of a model's config, for which
// no server is asked. What `hash`, `profile` and `plan` share. One thread.
#ifndef ENGRAM_CLIENT_CLI_TABLE_FLAGS_H_
#define ENGRAM_CLIENT_CLI_TABLE_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/command.h"
#include "client/client.h"

namespace engram {

struct TableFlags {
  std::string name;
  uint64_t version = 0;
  std::string model_config;
  std::string model = "auto";
  bool allow_unverified = false;

  bool served() const { return model_config.empty(); }
};

// NAME, --version, --model-config, --model and --allow-unverified.
void AddTableFlags(CLI::App& command, TableFlags& flags);
// Once all flags are read: throws CLI11's own error if no table was given, and says in `line`
// whether a server is asked.
void SettleTableFlags(const TableFlags& flags, CommandLine& line);

// A table and its token map, which is empty where none is needed or there is none.
struct TableAndMap {
  TableDescription description;
  std::vector<int32_t> token_map;
};

// `compressed`: the caller has ids that are compressed already, or none at all, and needs no map.
// Errors of ConnectClient, Client::Describe and Client::FetchTokenMap, or of ReadModel.
absl::StatusOr<TableAndMap> FindTable(const CommandLine& line, const TableFlags& flags,
                                      bool compressed);

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_TABLE_FLAGS_H_
