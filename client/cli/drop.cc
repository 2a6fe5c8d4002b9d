#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
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

struct DropFlags {
  std::string name;
  uint64_t version = 0;  // 0: all, once the user has said so
  bool all = false;
};

// Neither a version nor --all: a person may be asked, a script has forgotten something.
void RequireScope(const DropFlags& flags) {
  if (flags.version != 0 || flags.all || ::isatty(STDIN_FILENO) != 0) return;
  throw CLI::RequiredError("drop needs VERSION, or --all for every version of the table",
                           CLI::ExitCodes::RequiredError);
}

// Asks on stderr, for stdout carries results only.
bool Confirmed(const DropFlags& flags) {
  if (flags.all) return true;
  std::fprintf(stderr, "drop every version of table \"%s\"? [y/N] ", flags.name.c_str());
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

absl::StatusOr<std::vector<uint64_t>> DropAll(AdminClient& admin, const std::string& table,
                                              const std::atomic<bool>& interrupted) {
  v1::DropTableRequest request;
  request.set_table(table);
  ENGRAM_ASSIGN_OR_RETURN(const v1::DropTableResponse response,
                          admin.DropTable(request, &interrupted));
  return std::vector<uint64_t>(response.versions().begin(), response.versions().end());
}

absl::StatusOr<std::vector<uint64_t>> DropOne(AdminClient& admin, const DropFlags& flags,
                                              const std::atomic<bool>& interrupted) {
  v1::DropVersionRequest request;
  request.set_table(flags.name);
  request.set_version(flags.version);
  ENGRAM_RETURN_IF_ERROR(admin.DropVersion(request, &interrupted));
  return std::vector<uint64_t>{flags.version};
}

absl::Status Run(const CommandLine& line, const DropFlags& flags) {
  if (flags.version == 0 && !Confirmed(flags)) {
    return absl::AbortedError("nothing is dropped: the answer was neither \"y\" nor \"yes\"");
  }
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> versions,
                          flags.version == 0 ? DropAll(*admin, flags.name, interrupted)
                                             : DropOne(*admin, flags, interrupted));
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
  const auto flags = std::make_shared<DropFlags>();
  CLI::App* command =
      AddCommand(line, "drop", "Drops a version, or a whole table, and frees its space",
                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  CLI::Option* const version =
      command->add_option("VERSION", flags->version, "the version")->check(CheckVersion);
  command
      ->add_flag("--all", flags->all,
                 "every version, published or not (default: asks on a terminal, where VERSION is "
                 "missing)")
      ->excludes(version);
  command->parse_complete_callback([flags] { RequireScope(*flags); });
}

}  // namespace engram
