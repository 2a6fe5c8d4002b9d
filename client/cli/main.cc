// engramctl: what operators type. See README.md for the commands.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/grpc/target.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;
constexpr char kDefaultServer[] = "unix:/run/engramd/engramd.sock";

// One line on stderr, whatever the text.
int Complain(int exit_status, absl::string_view why) {
  const std::string line = absl::StrReplaceAll(why, {{"\r", ""}, {"\n", " "}});
  std::fprintf(stderr, "engramctl: %s\n", line.c_str());
  return exit_status;
}

std::string HelpHint(const CLI::App& app) {
  std::string command = "engramctl";
  for (const CLI::App* chosen : app.get_subcommands())
    absl::StrAppend(&command, " ", chosen->get_name());
  return absl::StrCat("; see ", command, " --help");
}

// CLI11 says only that a command is missing when it does not know the one that was given.
std::string WhatIsWrong(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining();
  if (!app.get_subcommands().empty() || unknown.empty()) return error.what();
  return absl::StrCat("there is no command \"", unknown.front(), "\"");
}

absl::Status SettleServer(std::string& server) {
  const char* from_environment = std::getenv("ENGRAM_SERVER");
  if (server.empty() && from_environment != nullptr) server = from_environment;
  if (server.empty()) server = kDefaultServer;
  return engram::GrpcTarget(server).status();
}

int Run(int argc, char** argv) {
  CLI::App app("Operates engramd, the daemon that serves rows of n-gram tables.", "engramctl");
  engram::CommandLine line;
  line.app = &app;
  app.set_version_flag("--version", "engramctl " ENGRAM_VERSION);
  app.add_option("--server", line.server,
                 "the daemon: unix:/path or host:port (default: $ENGRAM_SERVER, then "
                 "unix:/run/engramd/engramd.sock)");
  app.add_flag("--json", line.json, "one JSON document on stdout");
  app.require_subcommand(1);
  engram::AddLoadCommand(line);
  engram::AddListCommand(line);
  engram::AddDescribeCommand(line);
  engram::AddActivateCommand(line);
  engram::AddDropCommand(line);
  engram::AddVerifyCommand(line);
  engram::AddRowsCommand(line);
  engram::AddHashCommand(line);
  engram::AddLookupCommand(line);
  engram::AddStatsCommand(line);
  engram::AddBudgetCommand(line);
  engram::AddProfileCommand(line);
  engram::AddPlanCommand(line);
  engram::AddBenchCommand(line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version come here too, as successes.
    if (error.get_exit_code() == 0) return app.exit(error);
    return Complain(kWrongUsage, absl::StrCat(WhatIsWrong(app, error), HelpHint(app)));
  }
  if (!line.offline) {
    const absl::Status status = SettleServer(line.server);
    if (!status.ok()) return Complain(kWrongUsage, status.message());
  }
  absl::Status status = line.run();
  const absl::Status flushed = engram::FlushOutput();
  if (status.ok()) status = flushed;
  if (status.ok()) return 0;
  return Complain(kFailed, status.message().empty() ? absl::StatusCodeToString(status.code())
                                                    : std::string(status.message()));
}

}  // namespace

int main(int argc, char** argv) { return Run(argc, argv); }
