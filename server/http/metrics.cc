#include "server/http/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

namespace engram {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

class Families {
 public:
  MetricFamily& Add(const char* name, const char* help, MetricType type) {
    MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = type;
    all_.push_back(std::move(family));
    return all_.back();
  }

  void AddGauge(const char* name, const char* help, double value, Labels labels = {}) {
    AddValue(Add(name, help, MetricType::Gauge), std::move(labels), value);
  }

  static void AddValue(MetricFamily& family, Labels labels, double value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    if (family.type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family.metric.push_back(std::move(metric));
  }

  std::string Text() {
    std::erase_if(all_, [](const MetricFamily& family) { return family.metric.empty(); });
    return prometheus::TextSerializer().Serialize(all_);
  }

 private:
  std::vector<MetricFamily> all_;
};

void AddDaemon(const DaemonSnapshot& snapshot, Families& families) {
  families.AddGauge("engram_build_info", "Always 1; the label is the daemon's version.", 1,
                    {{"version", snapshot.daemon_version}});
  families.AddGauge("engram_uptime_seconds", "Seconds since the daemon started.",
                    snapshot.uptime_seconds);
  families.AddGauge("engram_ready", "1 while the daemon serves lookups, else 0.", snapshot.ready);
  if (!snapshot.nvme_io.empty()) {
    // What stands behind the semicolon counts on; as a label it would make ever new series.
    families.AddGauge("engram_nvme_io_info",
                      "Always 1; the label is how the NVMe tier reads, or what it fell back to.", 1,
                      {{"mode", snapshot.nvme_io.substr(0, snapshot.nvme_io.find(';'))}});
  }
  families.AddGauge("engram_dram_budget_bytes", "Budget of the DRAM tier now.",
                    static_cast<double>(snapshot.dram_budget_bytes));
  families.AddGauge("engram_dram_attached_clients",
                    "Clients on this host that read the DRAM tier themselves.",
                    static_cast<double>(snapshot.attached_clients));
  families.AddGauge("engram_client_connections", "Connections to the daemon's Unix sockets.",
                    static_cast<double>(snapshot.client_connections));
  families.AddGauge("engram_hbm_budget_bytes", "Configured budget of the HBM tier.",
                    static_cast<double>(snapshot.hbm_budget_bytes));
}

void AddTables(const DaemonSnapshot& snapshot, Families& families) {
  struct Kind {
    const char* name;
    const char* help;
    MetricType type;
    uint64_t (*value)(const TableSnapshot&);
  };
  const std::initializer_list<Kind> kinds = {
      {"engram_table_active_version", "The version that lookups get; 0 when there is none.",
       MetricType::Gauge, [](const TableSnapshot& t) { return uint64_t{Raw(t.version)}; }},
      {"engram_lookups_total", "Lookup calls.", MetricType::Counter,
       [](const TableSnapshot& t) { return t.lookups; }},
      {"engram_lookup_errors_total", "Lookup calls that ended in an error.", MetricType::Counter,
       [](const TableSnapshot& t) { return t.failed_lookups; }},
      {"engram_prefetched_rows_total", "Rows read into DRAM because a client asked for it.",
       MetricType::Counter, [](const TableSnapshot& t) { return t.prefetched_rows; }},
      {"engram_prefetched_used_rows_total", "Prefetched rows that were asked for afterwards.",
       MetricType::Counter, [](const TableSnapshot& t) { return t.prefetched_used_rows; }},
      {"engram_prefetched_unused_rows_total",
       "Prefetched rows that left DRAM before anybody asked for them.", MetricType::Counter,
       [](const TableSnapshot& t) { return t.prefetched_unused_rows; }},
      {"engram_prefetched_late_rows_total",
       "Rows that were asked for before their prefetch had brought them.", MetricType::Counter,
       [](const TableSnapshot& t) { return t.prefetched_late_rows; }},
      {"engram_prefetch_skipped_rows_total",
       "Rows of prefetches that were passed over because too many waited.", MetricType::Counter,
       [](const TableSnapshot& t) { return t.skipped_prefetch_rows; }},
  };
  for (const Kind& kind : kinds) {
    MetricFamily& family = families.Add(kind.name, kind.help, kind.type);
    for (const TableSnapshot& table : snapshot.tables) {
      Families::AddValue(family, {{"table", table.name}}, static_cast<double>(kind.value(table)));
    }
  }
}

void AddHistogram(MetricFamily& family, Labels labels, const LatencySnapshot& latency) {
  const std::array<double, kLatencyBounds> bounds = LatencyBounds();
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.histogram.sample_count = latency.count;
  metric.histogram.sample_sum = latency.sum_seconds;
  uint64_t cumulative = 0;
  // The serialiser writes the bucket of +Inf itself, from the count.
  for (size_t i = 0; i < kLatencyBounds; ++i) {
    cumulative += latency.counts[i];
    metric.histogram.bucket.push_back({cumulative, bounds[i]});
  }
  family.metric.push_back(std::move(metric));
}

void AddLatency(const DaemonSnapshot& snapshot, Families& families) {
  MetricFamily& family = families.Add("engram_lookup_seconds",
                                      "Time of a lookup call in the daemon, without the transport.",
                                      MetricType::Histogram);
  for (const TableSnapshot& table : snapshot.tables) {
    AddHistogram(family, {{"table", table.name}}, table.lookup_seconds);
  }
}

void AddQueue(const DaemonSnapshot& snapshot, Families& families) {
  const auto of_class = [](size_t i) { return Labels{{"class", kQueueClasses[i]}}; };
  MetricFamily& jobs = families.Add("engram_queue_jobs",
                                    "Look-ups and prefetches that wait for the drive or a thread.",
                                    MetricType::Gauge);
  for (size_t i = 0; i < kQueueClasses.size(); ++i) {
    Families::AddValue(jobs, of_class(i), static_cast<double>(snapshot.queue[i].jobs));
  }
  MetricFamily& units = families.Add(
      "engram_queue_units", "What is left of them to do: cold rows, and 64ths of warm ones.",
      MetricType::Gauge);
  for (size_t i = 0; i < kQueueClasses.size(); ++i) {
    Families::AddValue(units, of_class(i), static_cast<double>(snapshot.queue[i].units));
  }
  MetricFamily& waits = families.Add("engram_queue_wait_seconds",
                                     "Time from arrival in the queue to the first piece of work.",
                                     MetricType::Histogram);
  for (size_t i = 0; i < kQueueClasses.size(); ++i) {
    AddHistogram(waits, of_class(i), snapshot.queue[i].wait_seconds);
  }
  MetricFamily& refused = families.Add("engram_refused_lookups_total",
                                       "Look-ups that were refused.", MetricType::Counter);
  for (size_t i = 0; i < kRefusalNames.size(); ++i) {
    Families::AddValue(refused, {{"reason", kRefusalNames[i]}},
                       static_cast<double>(snapshot.refused[i]));
  }
}

const TierSnapshot& Dram(const LayerSnapshot& layer) {
  return layer.tiers[static_cast<size_t>(TierKind::kDram)];
}

void AddLayers(const DaemonSnapshot& snapshot, Families& families) {
  struct Kind {
    const char* name;
    const char* help;
    uint64_t (*value)(const LayerSnapshot&);
  };
  const std::initializer_list<Kind> kinds = {
      {"engram_rows_failed_total", "Rows that could not be given (corruption, I/O errors).",
       [](const LayerSnapshot& l) { return l.failed_rows; }},
      {"engram_rows_zero_total", "Rows of dead positions (id -1), answered with zeros.",
       [](const LayerSnapshot& l) { return l.zero_rows; }},
      {"engram_nvme_pages_failed_total",
       "Reads of NVMe pages that gave no row: damage or an I/O error; the log names the file.",
       [](const LayerSnapshot& l) { return l.failed_pages; }},
      {"engram_nvme_pages_retried_total",
       "NVMe pages that came wrong, and right when they were read again.",
       [](const LayerSnapshot& l) { return l.retried_pages; }},
      {"engram_nvme_pages_shared_total",
       "NVMe pages that came with the read of another call, which was under way already.",
       [](const LayerSnapshot& l) { return l.shared_pages; }},
      {"engram_dram_checked_rows_total",
       "Rows in DRAM, taken over from an earlier daemon, that were compared with NVMe.",
       [](const LayerSnapshot& l) { return Dram(l).checked_rows; }},
      {"engram_dram_mismatched_rows_total",
       "Of those, rows that differed: the layer's DRAM tier was given up and begun anew.",
       [](const LayerSnapshot& l) { return Dram(l).mismatched_rows; }},
      {"engram_dram_times_forgotten_total",
       "Times that the popular rows were seen to move and their counts were forgotten.",
       [](const LayerSnapshot& l) { return Dram(l).times_forgotten; }},
      {"engram_dram_placed_rows_total",
       "Rows read into DRAM because a profile, or what was saved before, named them.",
       [](const LayerSnapshot& l) {
         return l.tiers[static_cast<size_t>(TierKind::kDram)].placed_rows;
       }},
  };
  for (const Kind& kind : kinds) {
    MetricFamily& family = families.Add(kind.name, kind.help, MetricType::Counter);
    for (const TableSnapshot& table : snapshot.tables) {
      for (const LayerSnapshot& layer : table.layers) {
        Families::AddValue(family,
                           {{"table", table.name}, {"layer", std::to_string(Raw(layer.layer))}},
                           static_cast<double>(kind.value(layer)));
      }
    }
  }
}

void AddTiers(const DaemonSnapshot& snapshot, Families& families) {
  struct Kind {
    const char* name;
    const char* help;
    MetricType type;
    uint64_t (*value)(const TierSnapshot&);
  };
  const std::initializer_list<Kind> kinds = {
      {"engram_rows_served_total", "Rows served by each tier.", MetricType::Counter,
       [](const TierSnapshot& t) { return t.hits; }},
      {"engram_tier_up", "1 while the tier is on, 0 when it is off or not to be had.",
       MetricType::Gauge, [](const TierSnapshot& t) { return uint64_t{t.usage.on}; }},
      {"engram_tier_rows", "Rows held by the tier.", MetricType::Gauge,
       [](const TierSnapshot& t) { return t.usage.rows; }},
      {"engram_tier_bytes", "Bytes of the rows held by the tier.", MetricType::Gauge,
       [](const TierSnapshot& t) { return t.usage.bytes; }},
      {"engram_tier_capacity_bytes", "Memory or disk given to the tier, index included.",
       MetricType::Gauge, [](const TierSnapshot& t) { return t.usage.capacity_bytes; }},
  };
  for (const Kind& kind : kinds) {
    MetricFamily& family = families.Add(kind.name, kind.help, kind.type);
    for (const TableSnapshot& table : snapshot.tables) {
      for (const LayerSnapshot& layer : table.layers) {
        for (const TierKind tier : kAllTiers) {
          const TierSnapshot& held = layer.tiers[static_cast<size_t>(tier)];
          Families::AddValue(family,
                             {{"table", table.name},
                              {"layer", std::to_string(Raw(layer.layer))},
                              {"tier", TierName(tier)}},
                             static_cast<double>(kind.value(held)));
        }
      }
    }
  }
}

}  // namespace

std::string MetricsText(const DaemonSnapshot& snapshot) {
  Families families;
  AddDaemon(snapshot, families);
  AddTables(snapshot, families);
  AddLatency(snapshot, families);
  AddQueue(snapshot, families);
  AddTiers(snapshot, families);
  AddLayers(snapshot, families);
  return families.Text();
}

}  // namespace engram
