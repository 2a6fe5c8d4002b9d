#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "proto/message_json.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

struct BudgetFlags {
  uint64_t dram_bytes = 0;
};

absl::Status Run(const CommandLine& line, const BudgetFlags& flags) {
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  v1::SetDramBudgetRequest request;
  request.set_bytes(flags.dram_bytes);
  ENGRAM_ASSIGN_OR_RETURN(const v1::SetDramBudgetResponse answer,
                          admin->SetDramBudget(request, &interrupted));
  if (line.json) {
    PrintJson(nlohmann::ordered_json::parse(MessageToJson(answer)));
  } else {
    Print(absl::StrFormat(
        "the DRAM budget is %s (before %s), of which %s are taken; the daemon's next start goes by "
        "its config again\n",
        FormatSize(answer.dram_budget_bytes()), FormatSize(answer.before_bytes()),
        FormatSize(answer.used_bytes())));
  }
  return absl::OkStatus();
}

}  // namespace

void AddBudgetCommand(CommandLine& line) {
  const auto flags = std::make_shared<BudgetFlags>();
  CLI::App* command =
      AddCommand(line, "budget",
                 "Changes how much DRAM the tier may take, while the daemon runs; hot rows stay as "
                 "far as there is room",
                 [&line, flags] { return Run(line, *flags); });
  AddSizeFlag(*command, "--dram", flags->dram_bytes,
              "the new budget; 0 turns the tier off. Memory that is given up is free when this "
              "returns")
      ->required();
}

}  // namespace engram
