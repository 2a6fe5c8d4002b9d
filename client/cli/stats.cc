#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "proto/message_json.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kDefaultPeriod = 2;
constexpr double kMaxPeriod = 3600;

struct StatsFlags {
  CLI::Option* watch = nullptr;
  std::string period;  // "true" when --watch has no number, by CLI11's custom
};

struct NamedTier {
  const char* name;
  const v1::TierStats& (v1::Tiers::*get)() const;
};
constexpr std::array<NamedTier, 3> kTiers = {
    {{"hbm", &v1::Tiers::hbm}, {"dram", &v1::Tiers::dram}, {"nvme", &v1::Tiers::nvme}}};

double Period(const std::string& text) {
  double period = 0;
  return absl::SimpleAtod(text, &period) ? period : kDefaultPeriod;
}

std::string CheckPeriod(const std::string& text) {
  double period = 0;
  if (text == "true") return "";
  if (absl::SimpleAtod(text, &period) && period >= 0.1 && period <= kMaxPeriod) return "";
  return absl::StrCat("\"", text, "\" is not a number of seconds, 0.1 to ", kMaxPeriod);
}

// The message, and a table's latencies in the unit of `bench`.
Json ToJson(const v1::StatsResponse& stats) {
  Json json = Json::parse(MessageToJson(stats));
  for (Json& table : json["tables"]) {
    table["p50_us"] = table["lookup_p50_seconds"].get<double>() * 1e6;
    table["p99_us"] = table["lookup_p99_seconds"].get<double>() * 1e6;
  }
  return json;
}

void PrintTable(const v1::TableStats& table) {
  Print(absl::StrFormat(
      "\n%s version %d%s: %s lookups, p50 %s, p99 %s; rows zero %s, failed %s, prefetched %s "
      "(used %s, unused %s, late %s)\n",
      table.name(), table.version(), table.active() ? "" : " (not active)",
      HumanCount(table.lookups()), HumanMicros(table.lookup_p50_seconds() * 1e6),
      HumanMicros(table.lookup_p99_seconds() * 1e6), HumanCount(table.zero_rows()),
      HumanCount(table.failed_rows()), HumanCount(table.prefetched_rows()),
      HumanCount(table.prefetched_used_rows()), HumanCount(table.prefetched_unused_rows()),
      HumanCount(table.prefetched_late_rows())));
  TextTable text({"LAYER", "TIER", "ROWS", "BYTES", "HITS", "HIT RATIO", "NOTE"},
                 {true, false, true, true, true, true, false});
  for (const v1::LayerStats& layer : table.layers()) {
    for (const NamedTier& tier : kTiers) {
      const v1::TierStats& stats = (layer.tiers().*tier.get)();
      const std::string note = stats.on() || !stats.note().empty() ? stats.note() : "off";
      text.AddRow({absl::StrCat(layer.layer()), tier.name, HumanCount(stats.rows()),
                   HumanBytes(static_cast<double>(stats.bytes())), HumanCount(stats.hits()),
                   HumanShare(stats.hit_ratio()), note});
    }
  }
  Print(text.Format());
}

void PrintStats(const v1::StatsResponse& stats) {
  Print(
      absl::StrFormat("engramd %s, up %s; NVMe by %s; budgets: dram %s, hbm %s\n"
                      "dram in %s; %d clients read it themselves\n",
                      stats.daemon_version(), HumanSeconds(stats.uptime_seconds()), stats.nvme_io(),
                      FormatSize(stats.dram_budget_bytes()), FormatSize(stats.hbm_budget_bytes()),
                      stats.dram_memory(), stats.attached_clients()));
  if (stats.tables().empty()) Print("no tables\n");
  for (const v1::TableStats& table : stats.tables()) PrintTable(table);
}

// In small steps, so that an interrupt ends it at once.
void Sleep(double seconds, const std::atomic<bool>& interrupted) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!interrupted && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

absl::Status Run(const CommandLine& line, const StatsFlags& flags) {
  const bool watch = flags.watch->count() > 0;
  const std::atomic<bool>& interrupted = CatchInterrupts();
  ENGRAM_ASSIGN_OR_RETURN(const auto admin, ConnectAdmin(line));
  while (true) {
    const absl::StatusOr<v1::StatsResponse> stats = admin->Stats(&interrupted);
    if (watch && interrupted) return absl::OkStatus();
    ENGRAM_RETURN_IF_ERROR(stats.status());
    if (line.json) {
      PrintJson(ToJson(*stats), watch);
    } else {
      PrintStats(*stats);
      if (watch) Print("\n");
    }
    ENGRAM_RETURN_IF_ERROR(FlushOutput());
    if (!watch) return absl::OkStatus();
    Sleep(Period(flags.period), interrupted);
    if (interrupted) return absl::OkStatus();
  }
}

}  // namespace

void AddStatsCommand(CommandLine& line) {
  const auto flags = std::make_shared<StatsFlags>();
  CLI::App* command = AddCommand(line, "stats", "Shows rows held, hits and latencies of each tier",
                                 [&line, flags] { return Run(line, *flags); });
  flags->watch = command
                     ->add_option("--watch", flags->period,
                                  "again every SECONDS (2 if not given) until interrupted; with "
                                  "--json one document a line")
                     ->expected(0, 1)
                     ->type_name("[SECONDS]")
                     ->check(CheckPeriod);
}

}  // namespace engram
