// Predicted hit ratios against a calculation row by row.
#include "client/cli/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gpu_cache/arena_layout.h"
#include "storage/dram/fit_shape.h"
#include "storage/dram/layout.h"
#include "tests/test_seed.h"
#include "tests/unit/storage/table/model_specs.h"

namespace engram {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kClose = 1e-9;

using Counts = std::map<uint32_t, uint64_t>;  // of the rows of one layer

TableSpec Table() {
  const testing::Model model = testing::DeepseekV41(2000, 2);
  TableSpec spec;
  spec.family = "f";
  spec.addressing = model.addressing;
  spec.layers = model.layers;
  spec.layers[0].row_bytes = 264;
  spec.layers[1].row_bytes = 100;
  return spec;
}

int32_t OrderOf(const LayerSpec& layer, uint32_t row) {
  uint64_t end = 0;
  for (const ColumnSpec& column : layer.columns) {
    end += column.rows;
    if (row < end) return column.order;
  }
  ADD_FAILURE() << row;
  return 0;
}

// Skewed, with many rows seen once or twice; more so in the higher orders. In layer 1 every row of
// order 2 is seen.
Counts RandomCounts(std::mt19937_64& random, const LayerSpec& layer) {
  Counts counts;
  for (uint32_t row = 0; row < layer.rows; ++row) {
    const double u = std::uniform_real_distribution<double>(0.002, 1)(random);
    const auto count =
        static_cast<uint64_t>((Raw(layer.id) == 1 ? 2.2 : 1.5) / u / OrderOf(layer, row));
    if (count > 0) counts[row] = count;
  }
  return counts;
}

RowProfile ProfileOf(const TableSpec& spec, const std::vector<Counts>& counts,
                     size_t head_rows = 1'000'000) {
  RowProfile profile;
  profile.family = spec.family;
  profile.fingerprint = AddressingFingerprint(spec);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    LayerProfile& of = profile.layers.emplace_back();
    of.id = layer.id;
    of.rows = layer.rows;
    for (const ColumnSpec& column : layer.columns)
      of.columns.push_back({column.order, column.rows});
    for (const int32_t order : {2, 3, 4}) {
      std::map<uint64_t, uint64_t, std::greater<>> law;
      for (const auto& [row, count] : counts[i]) law[count] += OrderOf(layer, row) == order;
      OrderProfile& into = of.orders.emplace_back();
      into.order = order;
      for (const auto& [count, rows] : law) {
        if (rows > 0) into.classes.push_back({count, rows});
      }
    }
    for (const auto& [row, count] : counts[i]) {
      of.head.push_back({RowId{row}, static_cast<uint32_t>(count)});
    }
    std::stable_sort(of.head.begin(), of.head.end(),
                     [](const HotRow& a, const HotRow& b) { return a.count > b.count; });
    of.head.resize(std::min(of.head.size(), head_rows));
  }
  EXPECT_TRUE(profile.Serialize().ok()) << profile.Serialize().status();
  return profile;
}

// One row by itself, with all that is known of it.
struct Row {
  size_t layer;
  uint32_t id;
  double count;
  double expected;
  double test;
};

std::vector<Row> RowsOf(const TableSpec& spec, size_t layer, const Counts& counts,
                        const Counts& test) {
  std::map<int32_t, std::map<uint64_t, double>> rows_of;  // order, count
  std::map<int32_t, uint64_t> never_seen;
  for (const ColumnSpec& column : spec.layers[layer].columns) {
    never_seen[column.order] += column.rows;
  }
  for (const auto& [id, count] : counts) --never_seen[OrderOf(spec.layers[layer], id)];
  for (const auto& [id, count] : counts) ++rows_of[OrderOf(spec.layers[layer], id)][count];
  std::vector<Row> rows;
  for (const auto& [id, count] : counts) {
    auto& law = rows_of[OrderOf(spec.layers[layer], id)];
    // The least count whose class is too small.
    uint64_t few = 1;
    while (law[few] >= 100) ++few;
    double expected = static_cast<double>(count);
    if (never_seen[OrderOf(spec.layers[layer], id)] == 0) few = 1;
    if (few > 2 && count + 1 < few) {
      expected = static_cast<double>(count + 1) * law[count + 1] / law[count];
    } else if (few > 2) {
      double from_here = 0;
      for (const auto& [c, n] : law) from_here += c + 1 >= few ? static_cast<double>(c) * n : 0;
      const double moved = static_cast<double>(few - 1) * law[few - 1];
      expected *= (from_here - moved) / from_here;
    }
    const auto tested = test.find(id);
    rows.push_back({layer, id, static_cast<double>(count), expected,
                    tested == test.end() ? 0 : static_cast<double>(tested->second)});
  }
  return rows;
}

double Total(const Counts& counts) {
  double sum = 0;
  for (const auto& [id, count] : counts) sum += static_cast<double>(count);
  return sum;
}

struct Want {
  double same = 0, fresh = 0, test = 0;
  uint64_t rows = 0;
  void Add(const Row& row) {
    same += row.count;
    fresh += row.expected;
    test += row.test;
    ++rows;
  }
};

void ExpectTier(const TierPlan& tier, const Want& want, double total, double test_total) {
  EXPECT_EQ(tier.rows, want.rows);
  EXPECT_EQ(tier.named, want.rows);
  EXPECT_THAT(tier.hits.same_text, DoubleNear(want.same / total, kClose));
  EXPECT_THAT(tier.hits.new_text, DoubleNear(want.fresh / total, kClose));
  ASSERT_TRUE(tier.hits.test.has_value());
  EXPECT_THAT(*tier.hits.test, DoubleNear(want.test / test_total, kClose));
}

class PlacementTest : public ::testing::Test {
 protected:
  PlacementTest() {
    std::mt19937_64 random(TestSeed());
    for (const LayerSpec& layer : spec_.layers) {
      counts_.push_back(RandomCounts(random, layer));
      tested_.push_back(RandomCounts(random, layer));
    }
  }
  std::vector<Row> Rows(size_t layer) const {
    return RowsOf(spec_, layer, counts_[layer], tested_[layer]);
  }

  const TableSpec spec_ = Table();
  std::vector<Counts> counts_, tested_;
};

TEST_F(PlacementTest, TiersAreFilledRowByRow) {
  const RowProfile profile = ProfileOf(spec_, counts_), test = ProfileOf(spec_, tested_);
  const auto table_bytes = static_cast<double>(spec_.bytes());
  for (const TierBudgets budgets : {TierBudgets{0, 0}, TierBudgets{0, 1 << 20},
                                    TierBudgets{400'000, 0}, TierBudgets{300'000, 900'000}}) {
    const auto plan = PlanPlacement(spec_, profile, budgets, &test);
    ASSERT_TRUE(plan.ok()) << plan.status();
    Want all_hbm, all_dram;
    for (size_t i = 0; i < spec_.layers.size(); ++i) {
      const LayerSpec& layer = spec_.layers[i];
      const double part = static_cast<double>(layer.bytes()) / table_bytes;
      const auto hbm_bytes = static_cast<uint64_t>(part * static_cast<double>(budgets.hbm_bytes));
      const auto dram_bytes = static_cast<uint64_t>(part * static_cast<double>(budgets.dram_bytes));
      const gpu_cache::RegionShape region =
          gpu_cache::FitRegion(hbm_bytes, layer.row_bytes, layer.rows);
      ASSERT_FALSE(region.direct);
      const dram::LayerShape cache = dram::FitShape(dram_bytes, layer.row_bytes, layer.rows);
      std::vector<Row> rows = Rows(i);
      std::stable_sort(rows.begin(), rows.end(),
                       [](const Row& a, const Row& b) { return a.count > b.count; });
      Want hbm, dram;
      std::map<uint64_t, uint32_t> in_set, in_sector;
      for (const Row& row : rows) {
        // What HBM holds takes its place in DRAM too.
        const bool in_hbm =
            region.sectors > 0 &&
            in_sector[gpu_cache::SectorOf(row.id, region.sectors, false)]++ < gpu_cache::kWays;
        const bool in_dram = cache.segments > 0 && in_set[cache.FirstSetOf(row.id)]++ < dram::kWays;
        if (!in_hbm && !in_dram) continue;
        (in_hbm ? hbm : dram).Add(row);
        (in_hbm ? all_hbm : all_dram).Add(row);
      }
      ASSERT_EQ(cache.mode, dram::Mode::kCache);
      EXPECT_EQ(plan->layers[i].id, layer.id);
      EXPECT_EQ(plan->layers[i].hbm.bytes, hbm_bytes);
      EXPECT_EQ(plan->layers[i].dram.bytes, dram_bytes);
      ExpectTier(plan->layers[i].hbm, hbm, Total(counts_[i]), Total(tested_[i]));
      ExpectTier(plan->layers[i].dram, dram, Total(counts_[i]), Total(tested_[i]));
    }
    const double total = Total(counts_[0]) + Total(counts_[1]);
    const double test_total = Total(tested_[0]) + Total(tested_[1]);
    ExpectTier(plan->hbm, all_hbm, total, test_total);
    ExpectTier(plan->dram, all_dram, total, test_total);
  }
}

TEST_F(PlacementTest, SplitsTakeTheWorthiestRowsFirst) {
  const RowProfile profile = ProfileOf(spec_, counts_);
  const TierBudgets budgets{200'000, 700'000};
  const auto plan = PlanPlacement(spec_, profile, budgets, nullptr);
  ASSERT_TRUE(plan.ok()) << plan.status();
  // Sets of 15 rows, 64 bytes of tags, 64 of counts, 8 of state, to whole lines.
  const double row_bytes[] = {4096 / 15.0, 1728 / 15.0};
  std::vector<Row> rows = Rows(0);
  const std::vector<Row> more = Rows(1);
  rows.insert(rows.end(), more.begin(), more.end());
  ASSERT_EQ(plan->splits.size(), 3u);
  const double total = Total(counts_[0]) + Total(counts_[1]);
  for (const size_t split : {1, 2}) {
    const auto worth = [&](const Row& row) {
      return (split == 1 ? row.count : row.expected) / row_bytes[row.layer];
    };
    std::vector<Row> sorted = rows;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](const Row& a, const Row& b) { return worth(a) > worth(b); });
    Want hbm, dram;
    double hbm_room = 200'000, dram_room = 700'000;
    for (const Row& row : sorted) {
      const double bytes = row_bytes[row.layer];
      const bool in_hbm = bytes <= hbm_room;
      const bool in_dram = bytes <= dram_room;
      if (in_hbm) hbm_room -= bytes;
      if (in_dram) dram_room -= bytes;
      if (in_hbm || in_dram) (in_hbm ? hbm : dram).Add(row);
    }
    const SplitPlan& found = plan->splits[split];
    // Rows of the same worth, but of other orders, may change places at the end of a tier.
    const double close = 2e-3;
    EXPECT_THAT(found.hbm.same_text, DoubleNear(hbm.same / total, close));
    EXPECT_THAT(found.dram.same_text, DoubleNear(dram.same / total, close));
    EXPECT_THAT(found.hbm.new_text, DoubleNear(hbm.fresh / total, close));
    EXPECT_THAT(found.dram.new_text, DoubleNear(dram.fresh / total, close));
    EXPECT_NEAR(static_cast<double>(found.layer_bytes[0] + found.layer_bytes[1]), 900'000, 1000);
  }
  const auto hits = [&](size_t split) {
    return plan->splits[split].hbm.same_text + plan->splits[split].dram.same_text;
  };
  EXPECT_EQ(plan->splits[0].by, "bytes");
  EXPECT_GT(hits(1), hits(0));  // the layers' rows differ in size
  EXPECT_GE(hits(1) + kClose, hits(2));
  // Without conflicts in sets more is served than with them.
  EXPECT_GT(hits(0), plan->hbm.hits.same_text + plan->dram.hits.same_text);
}

TEST_F(PlacementTest, ATierThatHoldsAllServesAll) {
  const RowProfile profile = ProfileOf(spec_, counts_), test = ProfileOf(spec_, tested_);
  const auto plan = PlanPlacement(spec_, profile, {100'000, uint64_t{1} << 30}, &test);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_NEAR(plan->hbm.hits.same_text + plan->dram.hits.same_text, 1, kClose);
  EXPECT_NEAR(plan->hbm.hits.new_text + plan->dram.hits.new_text, 1, kClose);
  EXPECT_NEAR(*plan->hbm.hits.test + *plan->dram.hits.test, 1, kClose);
  EXPECT_GT(plan->hbm.hits.same_text, 0.01);
  EXPECT_GT(plan->never_seen, 0.01);
}

TEST_F(PlacementTest, WhatTheHeadDoesNotNameFillsWhatIsLeft) {
  const RowProfile whole = ProfileOf(spec_, counts_), cut = ProfileOf(spec_, counts_, 100);
  const auto of_whole = PlanPlacement(spec_, whole, {0, 1 << 20}, nullptr);
  const auto of_cut = PlanPlacement(spec_, cut, {0, 1 << 20}, nullptr);
  ASSERT_TRUE(of_whole.ok() && of_cut.ok());
  for (size_t i = 0; i < spec_.layers.size(); ++i) {
    EXPECT_EQ(of_cut->layers[i].dram.named, 100u);
    const uint64_t slots = dram::FitShape(of_cut->layers[i].dram.bytes, spec_.layers[i].row_bytes,
                                          spec_.layers[i].rows)
                               .Slots();
    EXPECT_EQ(of_cut->layers[i].dram.rows, slots);
    EXPECT_GE(of_cut->layers[i].dram.hits.same_text, of_whole->layers[i].dram.hits.same_text);
  }
  // A page of header for each layer, and what is left of the last one, are not the splits' matter.
  EXPECT_NEAR(of_cut->dram.hits.same_text, of_whole->splits[0].dram.same_text, 4e-3);
  EXPECT_FALSE(of_cut->dram.hits.test.has_value());
}

TEST_F(PlacementTest, ProfilesOfOtherTablesAreRefused) {
  const RowProfile profile = ProfileOf(spec_, counts_);
  RowProfile other = profile;
  other.fingerprint = std::string(32, '0');
  EXPECT_TRUE(
      absl::IsFailedPrecondition(PlanPlacement(spec_, other, {0, 1 << 20}, nullptr).status()));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(PlanPlacement(spec_, profile, {0, 1 << 20}, &other).status()));
  const RowProfile cut = ProfileOf(spec_, tested_, 100);
  const absl::Status status = PlanPlacement(spec_, profile, {0, 1 << 20}, &cut).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("profile --head "));
}

TEST(ExpectedCountsTest, AreGoodAndTurings) {
  // 1000 rows once, 400 twice, 150 three times, 40 four times, one of 1000.
  const std::vector<CountClass> classes = {{1000, 1}, {4, 40}, {3, 150}, {2, 400}, {1, 1000}};
  // 3 is the last that is large: what it had, 450, now is in 2; it, 4 and 1000 share the rest.
  const double rest = 1000 + 160 + 450, left = rest - 450;
  EXPECT_THAT(
      ExpectedCounts(classes, 1'000'000),
      ElementsAre(DoubleNear(1000 * left / rest, kClose), DoubleNear(4 * left / rest, kClose),
                  DoubleNear(3 * left / rest, kClose), DoubleNear(450 / 400.0, kClose),
                  DoubleNear(800 / 1000.0, kClose), DoubleNear(1000, kClose)));
  // Nothing is left unseen, or there is too little to go by.
  EXPECT_THAT(ExpectedCounts(classes, 1591), ElementsAre(1000, 4, 3, 2, 1, 0));
  EXPECT_THAT(ExpectedCounts({{2, 99}, {1, 500}}, 1'000'000), ElementsAre(2, 1, 0));
  EXPECT_THAT(ExpectedCounts({}, 10), ElementsAre(0));
}

TEST(ExpectedCountsTest, AddUpToWhatWasCounted) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 100; ++round) {
    std::vector<CountClass> classes;
    for (uint64_t count = 30 + random() % 30; count > 0; --count) {
      if (random() % 30 != 0) classes.push_back({count, 1 + random() % (20'000 / count)});
    }
    const std::vector<double> expected = ExpectedCounts(classes, 10'000'000);
    double sum = expected.back();
    for (size_t i = 0; i < classes.size(); ++i) {
      sum += expected[i] * static_cast<double>(classes[i].rows);
    }
    const auto accesses = static_cast<double>(Accesses(classes));
    EXPECT_NEAR(sum / accesses, 1, kClose);
  }
}

}  // namespace
}  // namespace engram
