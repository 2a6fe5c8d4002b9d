#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct ActivateFlags {
  std::string name;
  uint64_t version = 0;
};

absl::Status Run(const CommandLine& line, const ActivateFlags& flags) {
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  v1::ActivateRequest request;
  request.set_table(flags.name);
  request.set_version(flags.version);
  ENGRAM_RETURN_IF_ERROR(admin->Activate(request, &interrupted));
  if (line.json) {
    nlohmann::ordered_json json;
    json["table"] = flags.name;
    json["version"] = flags.version;
    json["active"] = true;
    PrintJson(json);
  } else {
    Print(absl::StrFormat("%s version %d is active\n", flags.name, flags.version));
  }
  return absl::OkStatus();
}

}  // namespace

void AddActivateCommand(CommandLine& line) {
  const auto flags = std::make_shared<ActivateFlags>();
  CLI::App* command = AddCommand(line, "activate", "Switches a table to a version, live",
                                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  command->add_option("VERSION", flags->version, "the version to serve")
      ->required()
      ->check(CheckVersion);
}

}  // namespace engram
