#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "proto/message_json.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct VerifyFlags {
  std::string name;
  std::string checkpoint;
  std::string model;
  std::vector<std::string> tensors;
  uint64_t version = 0;
  bool allow_unverified = false;
};

void PrintResult(const v1::VerifyProgress& result, const VerifyFlags& flags, double seconds) {
  Print(absl::StrFormat("verified %s: %s rows, %s in %s (%s)\n", flags.name,
                        HumanCount(result.rows_done()),
                        HumanBytes(static_cast<double>(result.bytes_done())), HumanSeconds(seconds),
                        HumanRate(static_cast<double>(result.bytes_done()) / seconds)));
  Print(absl::StrFormat(
      "compared with %s; rows in dram: %s, in hbm: %s\n",
      flags.checkpoint.empty() ? "the stored digests" : "the stored digests and the checkpoint",
      HumanCount(result.dram_rows()), HumanCount(result.hbm_rows())));
  Print(absl::StrFormat("bad rows: %s\n", HumanCount(result.bad_rows())));
  for (const std::string& problem : result.problems()) Print(absl::StrCat("  ", problem, "\n"));
}

// The message, what was asked for, and what follows from both. `rows` and `bytes` are what `load`
// calls so.
void PrintResultJson(const v1::VerifyProgress& result, const VerifyFlags& flags, double seconds) {
  auto json = nlohmann::ordered_json::parse(MessageToJson(result));
  json["table"] = flags.name;
  if (flags.version != 0) json["version"] = flags.version;
  json["ok"] = result.bad_rows() == 0;
  json["rows"] = result.rows_done();
  json["bytes"] = result.bytes_done();
  json["seconds"] = seconds;
  PrintJson(json);
}

absl::Status Run(const CommandLine& line, const VerifyFlags& flags) {
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  v1::VerifyRequest request;
  request.set_table(flags.name);
  request.set_version(flags.version);
  request.set_model(flags.model);
  for (const std::string& tensor : flags.tensors) request.add_tensors(tensor);
  request.set_allow_unverified(flags.allow_unverified);
  if (!flags.checkpoint.empty()) request.set_checkpoint(AbsoluteDirectory(flags.checkpoint));
  absl::StatusOr<v1::VerifyProgress> result;
  double seconds = 0;
  {
    Progress progress;
    const auto update = [&](const v1::VerifyProgress& message) {
      progress.Update({.phase = "verify",
                       .rows_done = message.rows_done(),
                       .rows_total = message.rows_total(),
                       .bytes_done = message.bytes_done(),
                       .bytes_total = message.bytes_total()});
    };
    result = admin->Verify(request, update, &interrupted);
    seconds = progress.seconds();
  }
  if (!result.ok() && interrupted) return absl::CancelledError("interrupted; nothing was changed");
  ENGRAM_RETURN_IF_ERROR(result.status());
  if (line.json) {
    PrintResultJson(*result, flags, seconds);
  } else {
    PrintResult(*result, flags, seconds);
  }
  if (result->bad_rows() == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat(
      "%s: %s bad rows; `engramctl load %s --checkpoint DIR --repair` rewrites what "
      "is damaged on the drive",
      flags.name, HumanCount(result->bad_rows()), flags.name));
}

}  // namespace

void AddVerifyCommand(CommandLine& line) {
  const auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = AddCommand(line, "verify", "Reads every row back and compares it",
                                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "the table")->required();
  CLI::Option* checkpoint = command->add_option(
      "--checkpoint", flags->checkpoint,
      "compare with this directory too, on the daemon's host (default: the stored digests only)");
  command->add_option("--model", flags->model, "model family of the checkpoint")
      ->needs(checkpoint)
      ->check(CLI::IsMember(ModelNames()));
  command
      ->add_option("--tensor", flags->tensors,
                   "tensor that holds rows, for --model generic; may be given again")
      ->needs(checkpoint)
      ->expected(1)
      ->take_all();
  command
      ->add_flag("--allow-unverified", flags->allow_unverified,
                 "compare with a model whose addressing no test vector has proved")
      ->needs(checkpoint);
  command->add_option("--version", flags->version, "version (default: the active one)")
      ->check(CheckVersion);
}

}  // namespace engram
