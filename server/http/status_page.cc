#include "server/http/status_page.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_replace.h"
#include "server/http/status_page_html.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

Json TiersJson(const LayerSnapshot& layer) {
  Json tiers = Json::object();
  for (const TierKind kind : kAllTiers) {
    const TierSnapshot& tier = layer.tiers[static_cast<size_t>(kind)];
    tiers[TierName(kind)] = {{"on", tier.usage.on},
                             {"note", tier.usage.note},
                             {"hits", tier.hits},
                             {"rows", tier.usage.rows},
                             {"bytes", tier.usage.bytes},
                             {"capacity_bytes", tier.usage.capacity_bytes},
                             {"hit_ratio", layer.HitRatio(kind)}};
  }
  return tiers;
}

LayerSnapshot Sum(const TableSnapshot& table) {
  LayerSnapshot sum;
  for (const LayerSnapshot& layer : table.layers) {
    sum.failed_rows += layer.failed_rows;
    sum.zero_rows += layer.zero_rows;
    for (size_t i = 0; i < kTierCount; ++i) {
      const TierSnapshot& from = layer.tiers[i];
      TierSnapshot& to = sum.tiers[i];
      to.hits += from.hits;
      to.usage.on = to.usage.on || from.usage.on;
      if (to.usage.note.empty()) to.usage.note = from.usage.note;
      to.usage.rows += from.usage.rows;
      to.usage.bytes += from.usage.bytes;
      to.usage.capacity_bytes += from.usage.capacity_bytes;
    }
  }
  return sum;
}

Json TableJson(const TableSnapshot& table) {
  const LayerSnapshot sum = Sum(table);
  Json layers = Json::array();
  for (const LayerSnapshot& layer : table.layers) {
    layers.push_back({{"layer", Raw(layer.layer)},
                      {"failed_rows", layer.failed_rows},
                      {"zero_rows", layer.zero_rows},
                      {"tiers", TiersJson(layer)}});
  }
  return {{"name", table.name},
          {"version", Raw(table.version)},
          {"lookups", table.lookups},
          {"failed_lookups", table.failed_lookups},
          {"prefetched_rows", table.prefetched_rows},
          {"prefetched_used_rows", table.prefetched_used_rows},
          {"prefetched_unused_rows", table.prefetched_unused_rows},
          {"prefetched_late_rows", table.prefetched_late_rows},
          {"skipped_prefetch_rows", table.skipped_prefetch_rows},
          {"failed_rows", sum.failed_rows},
          {"zero_rows", sum.zero_rows},
          {"lookup_p50_seconds", table.lookup_seconds.Quantile(0.5)},
          {"lookup_p99_seconds", table.lookup_seconds.Quantile(0.99)},
          {"tiers", TiersJson(sum)},
          {"layers", std::move(layers)}};
}

}  // namespace

const char kStatusPagePolicy[] =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

std::string StatsJson(const DaemonSnapshot& snapshot) {
  Json tables = Json::array();
  for (const TableSnapshot& table : snapshot.tables) tables.push_back(TableJson(table));
  const Json document = {{"daemon_version", snapshot.daemon_version},
                         {"uptime_seconds", snapshot.uptime_seconds},
                         {"ready", snapshot.ready},
                         {"nvme_io", snapshot.nvme_io},
                         {"hbm_note", snapshot.hbm_note},
                         {"dram_memory", snapshot.dram_memory},
                         {"attached_clients", snapshot.attached_clients},
                         {"dram_budget_bytes", snapshot.dram_budget_bytes},
                         {"hbm_budget_bytes", snapshot.hbm_budget_bytes},
                         {"tables", std::move(tables)}};
  return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string StatusPage(const DaemonSnapshot& snapshot) {
  // Inside a script element only `<` could end the text; JSON has it in strings alone.
  const std::string json = absl::StrReplaceAll(StatsJson(snapshot), {{"<", "\\u003c"}});
  return absl::StrReplaceAll(kStatusPageHtml, {{"{{SNAPSHOT}}", json}});
}

}  // namespace engram
