// What every command of engramctl shares: its flags, and how it is added to the command line.
//
// Each command is one file with one function Add…Command, called once by main.cc: it adds the
// command's flags and what it does. One thread.
#ifndef ENGRAM_CLIENT_CLI_COMMAND_H_
#define ENGRAM_CLIENT_CLI_COMMAND_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "client/grpc/admin.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace engram {

struct CommandLine {
  CLI::App* app = nullptr;
  std::string server;  // empty until main.cc has settled it
  bool json = false;
  bool offline = false;  // the command asks no server, so that one need not even be well-formed
  // Of the command that was chosen. Its error is printed by main.cc and makes exit status 1.
  std::function<absl::Status()> run;
};

// A command with the flags that all have (--server, --json, --help); choosing it sets run.
CLI::App* AddCommand(CommandLine& line, const std::string& name, const std::string& help,
                     std::function<absl::Status()> run);

// Connections to line.server; Unavailable, naming it, when nobody answers for 2 s.
absl::StatusOr<std::unique_ptr<AdminClient>> ConnectAdmin(const CommandLine& line);
// Over gRPC if nothing else is said: to map a tier is not worth it for one look-up.
absl::StatusOr<std::unique_ptr<Client>> ConnectClient(
    const CommandLine& line, TransportKind transport = TransportKind::kGrpc);

// The daemon's own description of a table; 0: of its active version. Errors as Client::Describe.
absl::StatusOr<v1::TableInfo> DescribeTable(const CommandLine& line, const std::string& name,
                                            uint64_t version);

// For CLI11's check: the empty string if `text` is a version, 1 and up, else what is wrong. (CLI11
// itself takes -1 for the largest number.)
std::string CheckVersion(const std::string& text);

// A flag that takes a SIZE, as engramd's do: 0, or a number with B, KiB, MiB, GiB or TiB; what is
// none is wrong usage. `bytes` must live as long as the command.
CLI::Option* AddSizeFlag(CLI::App& command, const std::string& name, uint64_t& bytes,
                         const std::string& help);

// What --model takes.
std::vector<std::string> ModelNames();

// DIR as the daemon must be told: the real path if there is such a directory here, else made
// absolute as text, for the daemon may see other directories than we do.
std::string AbsoluteDirectory(const std::string& directory);

void AddActivateCommand(CommandLine& line);
void AddBenchCommand(CommandLine& line);
void AddBudgetCommand(CommandLine& line);
void AddDescribeCommand(CommandLine& line);
void AddDropCommand(CommandLine& line);
void AddHashCommand(CommandLine& line);
void AddListCommand(CommandLine& line);
void AddLoadCommand(CommandLine& line);
void AddLookupCommand(CommandLine& line);
void AddPlanCommand(CommandLine& line);
void AddProfileCommand(CommandLine& line);
void AddRowsCommand(CommandLine& line);
void AddStatsCommand(CommandLine& line);
void AddVerifyCommand(CommandLine& line);

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_COMMAND_H_
