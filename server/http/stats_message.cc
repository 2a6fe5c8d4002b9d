#include "server/http/stats_message.h"

#include <cstddef>

namespace engram {
namespace {

LayerSnapshot Sum(const TableSnapshot& table) {
  LayerSnapshot sum;
  for (const LayerSnapshot& layer : table.layers) {
    sum.failed_rows += layer.failed_rows;
    sum.zero_rows += layer.zero_rows;
    for (size_t i = 0; i < kTierCount; ++i) {
      const TierSnapshot& from = layer.tiers[i];
      TierSnapshot& to = sum.tiers[i];
      to.usage.on = to.usage.on || from.usage.on;
      if (to.usage.note.empty()) to.usage.note = from.usage.note;
      to.usage.rows += from.usage.rows;
      to.usage.bytes += from.usage.bytes;
      to.usage.capacity_bytes += from.usage.capacity_bytes;
      to.hits += from.hits;
      to.checked_rows += from.checked_rows;
      to.mismatched_rows += from.mismatched_rows;
      to.times_forgotten += from.times_forgotten;
      to.placed_rows += from.placed_rows;
    }
  }
  return sum;
}

v1::TierStats ToTierStats(const LayerSnapshot& layer, TierKind kind) {
  const TierSnapshot& tier = layer.tiers[static_cast<size_t>(kind)];
  v1::TierStats out;
  out.set_on(tier.usage.on);
  out.set_note(tier.usage.note);
  out.set_hits(tier.hits);
  out.set_rows(tier.usage.rows);
  out.set_bytes(tier.usage.bytes);
  out.set_capacity_bytes(tier.usage.capacity_bytes);
  out.set_hit_ratio(layer.HitRatio(kind));
  out.set_placed_rows(tier.placed_rows);
  out.set_checked_rows(tier.checked_rows);
  out.set_mismatched_rows(tier.mismatched_rows);
  out.set_times_forgotten(tier.times_forgotten);
  return out;
}

v1::Tiers ToTiers(const LayerSnapshot& layer) {
  v1::Tiers tiers;
  *tiers.mutable_hbm() = ToTierStats(layer, TierKind::kHbm);
  *tiers.mutable_dram() = ToTierStats(layer, TierKind::kDram);
  *tiers.mutable_nvme() = ToTierStats(layer, TierKind::kNvme);
  return tiers;
}

v1::LayerStats ToLayerStats(const LayerSnapshot& layer) {
  v1::LayerStats out;
  out.set_layer(Raw(layer.layer));
  *out.mutable_tiers() = ToTiers(layer);
  out.set_failed_rows(layer.failed_rows);
  out.set_zero_rows(layer.zero_rows);
  out.set_failed_pages(layer.failed_pages);
  out.set_retried_pages(layer.retried_pages);
  out.set_shared_pages(layer.shared_pages);
  return out;
}

v1::TableStats ToTableStats(const TableSnapshot& table) {
  const LayerSnapshot sum = Sum(table);
  v1::TableStats out;
  out.set_name(table.name);
  out.set_version(Raw(table.version));
  out.set_active(table.version != kActiveVersion);
  out.set_lookups(table.lookups);
  out.set_failed_lookups(table.failed_lookups);
  out.set_lookup_p50_seconds(table.lookup_seconds.Quantile(0.5));
  out.set_lookup_p99_seconds(table.lookup_seconds.Quantile(0.99));
  out.set_failed_rows(sum.failed_rows);
  out.set_zero_rows(sum.zero_rows);
  out.set_prefetched_rows(table.prefetched_rows);
  out.set_prefetched_used_rows(table.prefetched_used_rows);
  out.set_prefetched_unused_rows(table.prefetched_unused_rows);
  out.set_prefetched_late_rows(table.prefetched_late_rows);
  out.set_skipped_prefetch_rows(table.skipped_prefetch_rows);
  *out.mutable_tiers() = ToTiers(sum);
  for (const LayerSnapshot& layer : table.layers) *out.add_layers() = ToLayerStats(layer);
  return out;
}

}  // namespace

v1::StatsResponse ToStatsMessage(const DaemonSnapshot& snapshot) {
  v1::StatsResponse out;
  out.set_daemon_version(snapshot.daemon_version);
  out.set_uptime_seconds(snapshot.uptime_seconds);
  out.set_ready(snapshot.ready);
  out.set_nvme_io(snapshot.nvme_io);
  out.set_hbm_note(snapshot.hbm_note);
  out.set_dram_memory(snapshot.dram_memory);
  out.set_attached_clients(snapshot.attached_clients);
  out.set_dram_budget_bytes(snapshot.dram_budget_bytes);
  out.set_hbm_budget_bytes(snapshot.hbm_budget_bytes);
  out.set_client_connections(snapshot.client_connections);
  for (const uint64_t refused : snapshot.refused) {
    out.set_refused_lookups(out.refused_lookups() + refused);
  }
  for (size_t i = 0; i < snapshot.queue.size(); ++i) {
    v1::QueueStats& queue = *out.add_queue();
    queue.set_urgency(static_cast<v1::Urgency>(v1::URGENCY_DECODE + i));
    queue.set_jobs(snapshot.queue[i].jobs);
    queue.set_units(snapshot.queue[i].units);
    queue.set_begun(snapshot.queue[i].wait_seconds.count);
    queue.set_wait_p50_seconds(snapshot.queue[i].wait_seconds.Quantile(0.5));
    queue.set_wait_p99_seconds(snapshot.queue[i].wait_seconds.Quantile(0.99));
  }
  for (const TableSnapshot& table : snapshot.tables) *out.add_tables() = ToTableStats(table);
  return out;
}

}  // namespace engram
