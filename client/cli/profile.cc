// Counts how often each row of a table is asked for by token files, into a profile (HOT).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/table_flags.h"
#include "client/cli/tokens.h"
#include "client/grpc/table_description.h"
#include "storage/base/status_macros.h"
#include "storage/profile/row_counter.h"
#include "storage/profile/token_files.h"

namespace engram {
namespace {

constexpr uint64_t kIdBytes = 4;
constexpr size_t kMaxThreads = 256;

struct ProfileFlags {
  TableFlags table;
  std::vector<std::string> files;
  std::string out;
  bool compressed = false;
  uint64_t memory = uint64_t{2} << 30;
  uint64_t head = uint64_t{16} << 20;
  size_t threads = 0;
};

size_t DefaultThreads() { return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 16); }

void Report(const CountProgress& counted, Progress& progress) {
  Progress::State state;
  state.phase = absl::StrCat("layer ", counted.layer);
  state.unit = "tokens";
  state.rows_done = counted.ids_read;
  state.rows_total = counted.ids_total;
  state.bytes_done = counted.ids_read * kIdBytes;
  state.bytes_total = counted.ids_total * kIdBytes;
  progress.Update(state);
}

nlohmann::ordered_json LayerJson(const LayerProfile& layer) {
  nlohmann::ordered_json json;
  const std::vector<CountClass> classes = layer.Classes();
  json["layer"] = Raw(layer.id);
  json["rows"] = layer.rows;
  json["lookups"] = Accesses(classes);
  json["distinct_rows"] = DistinctRows(classes);
  json["head_rows"] = layer.head.size();
  json["orders"] = nlohmann::ordered_json::array();
  for (const OrderProfile& order : layer.orders) {
    const uint64_t once =
        order.classes.empty() || order.classes.back().count > 1 ? 0 : order.classes.back().rows;
    json["orders"].push_back({{"order", order.order},
                              {"lookups", Accesses(order.classes)},
                              {"distinct_rows", DistinctRows(order.classes)},
                              {"rows_seen_once", once}});
  }
  return json;
}

void PrintAsJson(const CountedRows& counted, const ProfileFlags& flags, double seconds) {
  const RowProfile& profile = counted.profile;
  nlohmann::ordered_json json;
  json["profile"] = flags.out;
  json["family"] = profile.family;
  json["fingerprint"] = profile.fingerprint;
  json["token_map_digest"] = profile.token_map_digest;
  json["files"] = profile.sequences;
  json["tokens"] = profile.tokens;
  json["seconds"] = seconds;
  json["reads_of_the_files_per_layer"] = counted.ranges;
  json["layers"] = nlohmann::ordered_json::array();
  for (const LayerProfile& layer : profile.layers) json["layers"].push_back(LayerJson(layer));
  PrintJson(json);
}

void PrintText(const CountedRows& counted, const ProfileFlags& flags, double seconds) {
  const RowProfile& profile = counted.profile;
  TextTable table({"layer", "order", "look-ups", "distinct rows", "seen once"},
                  {true, true, true, true, true});
  for (const LayerProfile& layer : profile.layers) {
    for (const OrderProfile& order : layer.orders) {
      const uint64_t once =
          order.classes.empty() || order.classes.back().count > 1 ? 0 : order.classes.back().rows;
      table.AddRow({absl::StrCat(Raw(layer.id)), absl::StrCat(order.order),
                    HumanCount(Accesses(order.classes)), HumanCount(DistinctRows(order.classes)),
                    HumanCount(once)});
    }
  }
  Print(table.Format());
  Print(absl::StrFormat("%s: %s tokens of %s files in %s, exact; by name the first", flags.out,
                        HumanCount(profile.tokens), HumanCount(profile.sequences),
                        HumanSeconds(seconds)));
  for (const LayerProfile& layer : profile.layers) {
    Print(absl::StrFormat("%s %s rows of layer %d", &layer == &profile.layers[0] ? "" : ",",
                          HumanCount(layer.head.size()), Raw(layer.id)));
  }
  Print("\n");
}

absl::Status Run(const CommandLine& line, const ProfileFlags& flags) {
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const TokenFiles files, TokenFiles::Open(flags.files));
  ENGRAM_ASSIGN_OR_RETURN(const TableAndMap table, FindTable(line, flags.table, flags.compressed));
  ENGRAM_RETURN_IF_ERROR(CheckTokenMap(table.description, table.token_map, flags.compressed));
  // A config's map comes along where its pad needs it; ids that are compressed do not.
  ENGRAM_ASSIGN_OR_RETURN(const TableSpec spec, SpecFromDescription(table.description));
  const bool raw = NeedsTokenMap(table.description, flags.compressed);
  absl::StatusOr<CountedRows> counted;
  double seconds = 0;
  {
    Progress progress;
    const CountOptions options = {
        .memory_bytes = flags.memory,
        .head_rows = flags.head,
        .threads = flags.threads > 0 ? flags.threads : DefaultThreads(),
        .cancelled = &interrupted,
        .on_progress = [&](const CountProgress& so_far) { Report(so_far, progress); }};
    counted = CountRows(spec, raw ? table.token_map : std::vector<int32_t>(), files, options);
    seconds = progress.seconds();
  }
  ENGRAM_RETURN_IF_ERROR(counted.status());
  ENGRAM_RETURN_IF_ERROR(counted->profile.Write(flags.out));
  if (line.json) {
    PrintAsJson(*counted, flags, seconds);
  } else {
    PrintText(*counted, flags, seconds);
  }
  return absl::OkStatus();
}

}  // namespace

void AddProfileCommand(CommandLine& line) {
  const auto flags = std::make_shared<ProfileFlags>();
  CLI::App* command = AddCommand(
      line, "profile",
      "Counts how often token files ask for each row of a table, exactly, and writes the most "
      "frequent rows and the law of all into a profile (HOT) for plan and load. A token file is "
      "one sequence of little-endian uint32 ids; 4294967295 is a dead position, which also "
      "separates documents within a file",
      [&line, flags] { return Run(line, *flags); });
  AddTableFlags(*command, flags->table);
  command->parse_complete_callback([&line, flags] { SettleTableFlags(flags->table, line); });
  command->add_option("--tokens", flags->files, "token files; may be given again")->required();
  command->add_option("--out", flags->out, "the profile to make or replace")->required();
  command->add_flag("--compressed", flags->compressed,
                    "the ids are compressed already; ignored by models that hash raw ids");
  AddSizeFlag(*command, "--memory", flags->memory,
              "for counters and the head; with less than two bytes a row of a layer and the head "
              "the files are read several times for each layer, with the same result")
      ->default_str("2GiB");
  command->add_option("--head", flags->head, "rows of each layer to keep by name, 4 bytes each")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 30))
      ->capture_default_str();
  command
      ->add_option("--threads", flags->threads, "that count (default: the processors, 16 at most)")
      ->check(CLI::Range(size_t{1}, kMaxThreads));
}

}  // namespace engram
