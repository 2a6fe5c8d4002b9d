#include <CLI/CLI.hpp>
#include <algorithm>
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

struct LoadFlags {
  std::string name;
  std::string checkpoint;
  std::string model = "auto";
  std::vector<std::string> tensors;
  std::string profile;
  uint64_t version = 0;
  bool repair = false;
  bool allow_unverified = false;
};

// A load begins again where it stopped, so say so when it was stopped from outside.
absl::Status Explain(const absl::Status& status, bool interrupted) {
  if (status.ok()) return status;
  if (interrupted) return absl::CancelledError("interrupted; the same command resumes");
  if (!absl::IsUnavailable(status)) return status;
  return absl::UnavailableError(absl::StrCat(status.message(), "; the same command resumes"));
}

Progress::State ToState(const v1::LoadProgress& progress) {
  Progress::State state;
  state.phase = progress.phase() == v1::LOAD_PHASE_UNSPECIFIED
                    ? "read"
                    : EnumWord(*v1::LoadPhase_descriptor(), progress.phase());
  state.rows_done = progress.rows_done();
  state.rows_total = progress.rows_total();
  state.bytes_done = progress.bytes_done();
  state.bytes_total = progress.bytes_total();
  if (progress.rows_done() > 0) {
    state.bytes_before = static_cast<uint64_t>(static_cast<double>(progress.bytes_done()) *
                                               static_cast<double>(progress.rows_resumed()) /
                                               static_cast<double>(progress.rows_done()));
  }
  return state;
}

void PrintRepair(const v1::RepairReport& report, const std::string& what, uint64_t rows,
                 double seconds) {
  if (report.damaged_chunks() == 0) {
    Print(absl::StrFormat("nothing to repair: %s, all %s rows in %s chunks are whole\n", what,
                          HumanCount(rows), HumanCount(report.chunks())));
    return;
  }
  Print(absl::StrFormat("repaired %s in %s: %s of %s chunks were damaged, with %s rows lost\n",
                        what, HumanSeconds(seconds), HumanCount(report.damaged_chunks()),
                        HumanCount(report.chunks()), HumanCount(report.damaged_rows())));
  Print(absl::StrFormat("rewritten from the checkpoint: %s chunks, %s rows; all are whole now\n",
                        HumanCount(report.rewritten_chunks()),
                        HumanCount(report.rewritten_rows())));
  for (const std::string& problem : report.problems()) Print(absl::StrCat("  ", problem, "\n"));
}

void PrintResult(const v1::LoadProgress& progress, double seconds) {
  const v1::TableInfo& table = progress.table();
  const std::string what = absl::StrCat(table.name(), " version ", table.version());
  if (progress.has_repair()) {
    PrintRepair(progress.repair(), what, table.rows(), seconds);
  } else if (progress.already_loaded()) {
    Print(absl::StrCat("already loaded: ", what, ", ", HumanCount(table.rows()), " rows\n"));
  } else {
    const Progress::State state = ToState(progress);
    const double bytes =
        static_cast<double>(table.bytes() - std::min(state.bytes_before, table.bytes()));
    Print(absl::StrFormat("loaded %s: %s rows, %s in %s (%s)\n", what, HumanCount(table.rows()),
                          HumanBytes(static_cast<double>(table.bytes())), HumanSeconds(seconds),
                          HumanRate(seconds > 0 ? bytes / seconds : 0)));
    if (progress.rows_resumed() > 0) {
      Print(absl::StrFormat("resumed: %s of the rows were there already\n",
                            HumanCount(progress.rows_resumed())));
    }
  }
  if (!table.active()) {
    Print(absl::StrFormat("not active yet; engramctl activate %s %d switches to it\n", table.name(),
                          table.version()));
  }
}

void PrintResultJson(const v1::LoadProgress& progress, double seconds) {
  const v1::TableInfo& table = progress.table();
  nlohmann::ordered_json json;
  json["table"] = table.name();
  json["version"] = table.version();
  json["rows"] = table.rows();
  json["bytes"] = table.bytes();
  json["seconds"] = seconds;
  json["already_loaded"] = progress.already_loaded();
  json["resumed_rows"] = progress.rows_resumed();
  json["active"] = table.active();
  if (progress.has_repair()) {
    json["repair"] = nlohmann::ordered_json::parse(MessageToJson(progress.repair()));
  }
  PrintJson(json);
}

absl::Status Run(const CommandLine& line, const LoadFlags& flags) {
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  v1::LoadRequest request;
  request.set_table(flags.name);
  request.set_checkpoint(AbsoluteDirectory(flags.checkpoint));
  request.set_model(flags.model == "auto" ? "" : flags.model);
  for (const std::string& tensor : flags.tensors) request.add_tensors(tensor);
  request.set_version(flags.version);
  if (!flags.profile.empty()) request.set_profile(AbsoluteDirectory(flags.profile));
  request.set_repair(flags.repair);
  request.set_allow_unverified(flags.allow_unverified);

  absl::StatusOr<v1::LoadProgress> last;
  double seconds = 0;
  {
    Progress progress;
    last = admin->Load(
        request, [&](const v1::LoadProgress& message) { progress.Update(ToState(message)); },
        &interrupted);
    seconds = progress.seconds();
  }
  ENGRAM_RETURN_IF_ERROR(Explain(last.status(), interrupted));
  if (line.json) {
    PrintResultJson(*last, seconds);
  } else {
    PrintResult(*last, seconds);
  }
  return absl::OkStatus();
}

}  // namespace

void AddLoadCommand(CommandLine& line) {
  const auto flags = std::make_shared<LoadFlags>();
  CLI::App* command =
      AddCommand(line, "load", "Loads a checkpoint's tables; the same command resumes or confirms",
                 [&line, flags] { return Run(line, *flags); });
  command->add_option("NAME", flags->name, "what the table is to be called")->required();
  command
      ->add_option("--checkpoint", flags->checkpoint,
                   "directory with the safetensors files, on the daemon's host")
      ->required();
  command->add_option("--model", flags->model, "model family")
      ->check(CLI::IsMember(ModelNames()))
      ->capture_default_str();
  command
      ->add_option("--tensor", flags->tensors,
                   "tensor that holds rows, for --model generic; may be given again")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--version", flags->version,
                   "version to make (default: the next free one), or to repair")
      ->check(CheckVersion);
  CLI::Option* const profile =
      command
          ->add_option("--profile", flags->profile,
                       "file that `engramctl profile` wrote, on the daemon's host: its most "
                       "frequent rows are read into DRAM as soon as the table is active, and after "
                       "each start with an empty tier")
          ->type_name("HOT");
  command
      ->add_flag("--repair", flags->repair,
                 "read back a table that is loaded, and rewrite what is damaged of it")
      ->excludes(profile);
  command->add_flag("--allow-unverified", flags->allow_unverified,
                    "load a model whose addressing no test vector has proved");
}

}  // namespace engram
