#include "server/http/metrics.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

DaemonSnapshot MakeSnapshot() {
  DaemonSnapshot snapshot;
  snapshot.daemon_version = "1.2.3";
  snapshot.uptime_seconds = 12.5;
  snapshot.ready = true;
  snapshot.nvme_io = "io_uring, direct I/O; 3 reads fell back to pread";
  snapshot.dram_budget_bytes = 4096;
  snapshot.attached_clients = 3;
  snapshot.hbm_budget_bytes = 0;
  snapshot.client_connections = 11;
  snapshot.queue[0].jobs = 12;
  snapshot.queue[1].units = 13;
  LatencyHistogram waits;
  waits.Observe(std::chrono::microseconds(3));
  snapshot.queue[3].wait_seconds = waits.Snapshot();
  snapshot.refused = {14, 15, 16};
  TableSnapshot table;
  table.name = "demo";
  table.version = VersionId{7};
  table.lookups = 20;
  table.failed_lookups = 2;
  table.prefetched_rows = 30;
  table.prefetched_used_rows = 20;
  table.prefetched_unused_rows = 5;
  table.prefetched_late_rows = 3;
  table.skipped_prefetch_rows = 4;
  LatencyHistogram histogram;
  histogram.Observe(std::chrono::microseconds(1));
  histogram.Observe(std::chrono::microseconds(3));
  histogram.Observe(std::chrono::seconds(60));
  table.lookup_seconds = histogram.Snapshot();
  LayerSnapshot layer;
  layer.layer = LayerId{14};
  layer.failed_rows = 5;
  layer.zero_rows = 6;
  layer.tiers[1].usage = {true, "", 10, 2640, 4000};
  layer.tiers[1].hits = uint64_t{1} << 52;
  layer.tiers[1].checked_rows = 9;
  layer.tiers[1].mismatched_rows = 1;
  layer.tiers[1].times_forgotten = 2;
  layer.tiers[2].usage = {true, "", 100, 26400, 30000};
  layer.tiers[2].hits = 8;
  table.layers.push_back(layer);
  snapshot.tables.push_back(table);
  return snapshot;
}

std::string ReadSource(const std::string& path) {
  std::ifstream file(absl::StrCat(ENGRAM_SOURCE_DIR, "/", path));
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> Lines(const std::string& text) { return absl::StrSplit(text, '\n'); }

// Name → type of every family in the text.
std::map<std::string, std::string> Emitted() {
  std::map<std::string, std::string> families;
  for (const std::string& line : Lines(MetricsText(MakeSnapshot()))) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() == 4 && words[1] == "TYPE") families[words[2]] = words[3];
  }
  return families;
}

// Every engram_* series that the text names.
std::set<std::string> Named(const std::string& text) {
  constexpr char kNameLetters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
  std::set<std::string> names;
  size_t begin = text.find("engram_");
  while (begin != std::string::npos) {
    const size_t end = std::min(text.find_first_not_of(kNameLetters, begin), text.size());
    names.insert(text.substr(begin, end - begin));
    begin = text.find("engram_", end);
  }
  return names;
}

// The series that a family's samples have.
std::set<std::string> Series() {
  std::set<std::string> series;
  for (const auto& [name, type] : Emitted()) {
    if (type == "histogram") {
      for (const char* suffix : {"_bucket", "_sum", "_count"}) series.insert(name + suffix);
    } else {
      series.insert(name);
    }
  }
  return series;
}

TEST(MetricsText, EachSampleHasItsValue) {
  const std::vector<std::string> lines = Lines(MetricsText(MakeSnapshot()));
  for (const std::string line : {
           "engram_build_info{version=\"1.2.3\"} 1",
           "engram_uptime_seconds 12.5",
           "engram_ready 1",
           "engram_nvme_io_info{mode=\"io_uring, direct I/O\"} 1",
           "engram_dram_budget_bytes 4096",
           "engram_dram_attached_clients 3",
           "engram_hbm_budget_bytes 0",
           "engram_client_connections 11",
           "engram_queue_jobs{class=\"decode\"} 12",
           "engram_queue_jobs{class=\"prefill\"} 0",
           "engram_queue_units{class=\"prefill\"} 13",
           "engram_queue_wait_seconds_count{class=\"background\"} 1",
           "engram_queue_wait_seconds_count{class=\"prefetch\"} 0",
           "engram_refused_lookups_total{reason=\"queue_full\"} 14",
           "engram_refused_lookups_total{reason=\"too_large\"} 15",
           "engram_refused_lookups_total{reason=\"shutting_down\"} 16",
           "engram_table_active_version{table=\"demo\"} 7",
           "engram_lookups_total{table=\"demo\"} 20",
           "engram_lookup_errors_total{table=\"demo\"} 2",
           "engram_prefetched_rows_total{table=\"demo\"} 30",
           "engram_prefetched_used_rows_total{table=\"demo\"} 20",
           "engram_prefetched_unused_rows_total{table=\"demo\"} 5",
           "engram_prefetched_late_rows_total{table=\"demo\"} 3",
           "engram_prefetch_skipped_rows_total{table=\"demo\"} 4",
           "engram_rows_failed_total{table=\"demo\",layer=\"14\"} 5",
           "engram_rows_zero_total{table=\"demo\",layer=\"14\"} 6",
           "engram_dram_checked_rows_total{table=\"demo\",layer=\"14\"} 9",
           "engram_dram_mismatched_rows_total{table=\"demo\",layer=\"14\"} 1",
           "engram_dram_times_forgotten_total{table=\"demo\",layer=\"14\"} 2",
           "engram_rows_served_total{table=\"demo\",layer=\"14\",tier=\"dram\"} 4503599627370496",
           "engram_rows_served_total{table=\"demo\",layer=\"14\",tier=\"nvme\"} 8",
           "engram_rows_served_total{table=\"demo\",layer=\"14\",tier=\"hbm\"} 0",
           "engram_tier_up{table=\"demo\",layer=\"14\",tier=\"hbm\"} 0",
           "engram_tier_up{table=\"demo\",layer=\"14\",tier=\"dram\"} 1",
           "engram_tier_rows{table=\"demo\",layer=\"14\",tier=\"dram\"} 10",
           "engram_tier_bytes{table=\"demo\",layer=\"14\",tier=\"dram\"} 2640",
           "engram_tier_capacity_bytes{table=\"demo\",layer=\"14\",tier=\"nvme\"} 30000",
       }) {
    EXPECT_THAT(lines, ::testing::Contains(line));
  }
}

TEST(MetricsText, TheHistogramIsCumulativeAndEndsWithTheCount) {
  std::vector<uint64_t> buckets;
  for (const std::string& line : Lines(MetricsText(MakeSnapshot()))) {
    if (!absl::StartsWith(line, "engram_lookup_seconds_bucket")) continue;
    buckets.push_back(std::stoull(line.substr(line.rfind(' ') + 1)));
  }
  ASSERT_EQ(buckets.size(), kLatencyBounds + 1);
  EXPECT_EQ(buckets[0], 1u);
  EXPECT_EQ(buckets[1], 1u);
  for (size_t i = 2; i < kLatencyBounds; ++i) EXPECT_EQ(buckets[i], 2u);
  EXPECT_EQ(buckets.back(), 3u);
  const std::string text = MetricsText(MakeSnapshot());
  EXPECT_THAT(text, HasSubstr("engram_lookup_seconds_bucket{table=\"demo\",le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("engram_lookup_seconds_count{table=\"demo\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("engram_lookup_seconds_sum{table=\"demo\"} 60.000004\n"));
}

TEST(MetricsText, EscapesLabels) {
  DaemonSnapshot snapshot = MakeSnapshot();
  snapshot.tables[0].name = "a\"b\\c\nd";
  EXPECT_THAT(MetricsText(snapshot),
              HasSubstr("engram_lookups_total{table=\"a\\\"b\\\\c\\nd\"} 20"));
}

TEST(MetricsText, BeforeTheStoreIsOpen) {
  const std::string text = MetricsText(DaemonSnapshot());
  EXPECT_THAT(text, HasSubstr("engram_ready 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("engram_nvme_io_info")));
  EXPECT_THAT(text, Not(HasSubstr("engram_lookups_total")));
  EXPECT_THAT(text, Not(HasSubstr("engram_rows_served_total")));
}

TEST(MetricsPage, DocumentsWhatIsEmittedWithItsType) {
  std::map<std::string, std::string> documented;
  for (const std::string& line : Lines(ReadSource("deploy/METRICS.md"))) {
    const std::vector<std::string> cells = absl::StrSplit(line, " | ");
    if (!absl::StartsWith(line, "| `engram_") || cells.size() < 4) continue;
    documented[cells[0].substr(3, cells[0].size() - 4)] = cells[1];
  }
  EXPECT_EQ(documented, Emitted());
}

TEST(MetricsPage, QueriesUseWhatIsEmitted) {
  std::set<std::string> known = Series();
  for (const auto& [name, type] : Emitted()) known.insert(name);
  EXPECT_THAT(Named(ReadSource("deploy/METRICS.md")), ::testing::IsSubsetOf(known));
}

TEST(Alerts, UseWhatIsEmittedAndSayWhatToDo) {
  const YAML::Node alerts = YAML::Load(ReadSource("deploy/prometheus/alerts.yml"));
  size_t rules = 0;
  for (const YAML::Node& group : alerts["groups"]) {
    for (const YAML::Node& rule : group["rules"]) {
      ++rules;
      const std::string name = rule["alert"].as<std::string>();
      EXPECT_THAT(Named(rule["expr"].as<std::string>()), ::testing::IsSubsetOf(Series())) << name;
      EXPECT_FALSE(rule["annotations"]["summary"].as<std::string>().empty()) << name;
      EXPECT_FALSE(rule["annotations"]["action"].as<std::string>().empty()) << name;
    }
  }
  EXPECT_GT(rules, 0u);
}

TEST(Dashboard, UsesWhatIsEmitted) {
  const auto dashboard = nlohmann::json::parse(ReadSource("deploy/grafana/engramd.json"));
  size_t queries = 0;
  for (const auto& panel : dashboard.at("panels")) {
    for (const auto& target : panel.at("targets")) {
      ++queries;
      const auto named = Named(target.at("expr").get<std::string>());
      EXPECT_FALSE(named.empty()) << panel.at("title");
      EXPECT_THAT(named, ::testing::IsSubsetOf(Series())) << panel.at("title");
    }
  }
  EXPECT_GT(queries, 0u);
  for (const auto& variable : dashboard.at("templating").at("list")) {
    EXPECT_THAT(Named(variable.at("query").dump()), ::testing::IsSubsetOf(Series()));
  }
}

}  // namespace
}  // namespace engram
