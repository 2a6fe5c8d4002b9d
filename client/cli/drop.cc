#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct Flags {
  std::string name;
  uint64_t version = 0;  // 0: all
};

absl::Status Run(const CommandLine& line, const Flags& flags) {
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  v1::DropRequest request;
  request.set_table(flags.name);
  request.set_version(flags.version);
  ENGRAM_ASSIGN_OR_RETURN(const v1::DropResponse response, admin->Drop(request, &interrupted));
  const std::vector<uint64_t> versions(response.versions().begin(), response.versions().end());
  if (line.json) {
    nlohmann::ordered_json json;
    json["table"] = flags.name;
    json["versions"] = versions;
    PrintJson(json);
  } else {
    Print(absl::StrFormat("dropped %s version%s %s\n", flags.name, versions.size() == 1 ? "" : "s",
                          absl::StrJoin(versions, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace

void AddDropCommand(CommandLine& line) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      AddCommand(line, "drop", "Drops a version, or a whole table, and frees its space",
                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  command->add_option("VERSION", flags->version, "the version (default: all of them)")
      ->check(CheckVersion);
}

}  // namespace engram
