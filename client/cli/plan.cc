// Predicts what each tier would serve if it held the most frequent rows of a profile.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/placement.h"
#include "client/cli/table_flags.h"
#include "client/grpc/table_description.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

struct PlanFlags {
  TableFlags table;
  std::string profile;
  std::string test;
  uint64_t hbm = 0;
  uint64_t dram = 0;
};

Json HitsJson(const HitRatio& hits) {
  Json json = {{"hit_ratio", hits.same_text}, {"new_text_hit_ratio", hits.new_text}};
  if (hits.test.has_value()) json["test_hit_ratio"] = *hits.test;
  return json;
}

Json TierJson(const TierPlan& tier) {
  Json json = HitsJson(tier.hits);
  json["bytes"] = tier.bytes;
  json["rows"] = tier.rows;
  json["named_rows"] = tier.named;
  return json;
}

// What neither tier has.
HitRatio Rest(const HitRatio& hbm, const HitRatio& dram) {
  HitRatio rest = {.same_text = 1 - hbm.same_text - dram.same_text,
                   .new_text = 1 - hbm.new_text - dram.new_text};
  if (hbm.test.has_value() && dram.test.has_value()) rest.test = 1 - *hbm.test - *dram.test;
  return rest;
}

Json TiersJson(const TierPlan& hbm, const TierPlan& dram) {
  return {{"hbm", TierJson(hbm)},
          {"dram", TierJson(dram)},
          {"nvme", HitsJson(Rest(hbm.hits, dram.hits))}};
}

void PrintAsJson(const PlanFlags& flags, const RowProfile& profile, const PlacementPlan& plan) {
  Json json;
  if (flags.table.served()) json["table"] = flags.table.name;
  json["profile"] = flags.profile;
  json["tokens"] = profile.tokens;
  json["never_seen_share"] = plan.never_seen;
  json["tiers"] = TiersJson(plan.hbm, plan.dram);
  json["layers"] = Json::array();
  for (const LayerPlan& layer : plan.layers) {
    json["layers"].push_back({{"layer", Raw(layer.id)},
                              {"lookups", layer.lookups},
                              {"never_seen_share", layer.never_seen},
                              {"tiers", TiersJson(layer.hbm, layer.dram)}});
  }
  json["splits"] = Json::array();
  for (const SplitPlan& split : plan.splits) {
    json["splits"].push_back(
        {{"by", split.by},
         {"layer_bytes", split.layer_bytes},
         {"tiers", {{"hbm", HitsJson(split.hbm)}, {"dram", HitsJson(split.dram)}}}});
  }
  PrintJson(json);
}

std::string Percent(double share) { return absl::StrFormat("%.2f %%", share * 100); }

void AddTierRows(TextTable& table, const std::string& layer, const TierPlan& hbm,
                 const TierPlan& dram) {
  const auto add = [&](const char* tier, const TierPlan* plan, const HitRatio& hits) {
    table.AddRow({layer, tier, plan == nullptr ? "" : FormatSize(plan->bytes),
                  plan == nullptr ? "" : HumanCount(plan->rows),
                  plan == nullptr ? "" : HumanCount(plan->named), Percent(hits.same_text),
                  Percent(hits.new_text), hits.test.has_value() ? Percent(*hits.test) : ""});
  };
  add("hbm", &hbm, hbm.hits);
  add("dram", &dram, dram.hits);
  add("nvme", nullptr, Rest(hbm.hits, dram.hits));
}

void PrintText(const PlanFlags& flags, const RowProfile& profile, const PlacementPlan& plan) {
  TextTable table({"layer", "tier", "bytes", "rows", "by name", "same text", "new text",
                   flags.test.empty() ? "" : "test"},
                  {true, false, true, true, true, true, true, true});
  for (const LayerPlan& layer : plan.layers) {
    AddTierRows(table, absl::StrCat(Raw(layer.id)), layer.hbm, layer.dram);
  }
  if (plan.layers.size() > 1) AddTierRows(table, "all", plan.hbm, plan.dram);
  Print(table.Format());
  Print(absl::StrFormat(
      "same text: of the %s tokens of the profile. New text: of as many others of that kind, "
      "estimated (Good-Turing); %s of its look-ups go to rows that the profile never saw\n",
      HumanCount(profile.tokens), Percent(plan.never_seen)));
  const auto all = [](const TierPlan& tier) { return tier.rows > tier.named; };
  if (all(plan.hbm) || all(plan.dram)) {
    Print("the profile names too few rows to fill the tiers by it: profile --head keeps more\n");
  }
  TextTable splits({"split of both budgets", "bytes a layer", "same text", "new text"},
                   {false, false, true, true});
  for (const SplitPlan& split : plan.splits) {
    std::string bytes;
    for (const uint64_t each : split.layer_bytes) {
      absl::StrAppend(&bytes, bytes.empty() ? "" : " ", FormatSize(each));
    }
    splits.AddRow({"by " + split.by, bytes, Percent(split.hbm.same_text + split.dram.same_text),
                   Percent(split.hbm.new_text + split.dram.new_text)});
  }
  Print(absl::StrCat(
      "\n", splits.Format(),
      "by bytes: as the daemon does; all three as if any row could lie in any slot\n"));
}

absl::Status Run(const CommandLine& line, const PlanFlags& flags) {
  ENGRAM_ASSIGN_OR_RETURN(const RowProfile profile, RowProfile::Read(flags.profile));
  std::optional<RowProfile> test;
  if (!flags.test.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(test, RowProfile::Read(flags.test));
  }
  ENGRAM_ASSIGN_OR_RETURN(const TableAndMap table,
                          FindTable(line, flags.table, /*compressed=*/true));
  ENGRAM_ASSIGN_OR_RETURN(const TableSpec spec, SpecFromDescription(table.description));
  ENGRAM_ASSIGN_OR_RETURN(
      const PlacementPlan plan,
      PlanPlacement(spec, profile, {.hbm_bytes = flags.hbm, .dram_bytes = flags.dram},
                    test.has_value() ? &*test : nullptr));
  if (line.json) {
    PrintAsJson(flags, profile, plan);
  } else {
    PrintText(flags, profile, plan);
  }
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CommandLine& line) {
  const auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = AddCommand(
      line, "plan",
      "Predicts the hit ratio of each tier if the most frequent rows of a profile lay in HBM, the "
      "next in DRAM, and no other table shared the budgets",
      [&line, flags] { return Run(line, *flags); });
  AddTableFlags(*command, flags->table);
  command->parse_complete_callback([&line, flags] { SettleTableFlags(flags->table, line); });
  command->add_option("--profile", flags->profile, "HOT, as engramctl profile made it")->required();
  AddSizeFlag(*command, "--hbm", flags->hbm, "budget of the HBM tier")->required();
  AddSizeFlag(*command, "--dram", flags->dram, "budget of the DRAM tier")->required();
  command->add_option("--test", flags->test,
                      "a profile of other text, whose look-ups are counted against the placement");
}

}  // namespace engram
