#include "client/cli/placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu_cache/arena_layout.h"
#include "storage/base/status_macros.h"
#include "storage/dram/fit_shape.h"
#include "storage/dram/layout.h"

namespace engram {
namespace {

constexpr uint64_t kEnoughRows = 100;  // for a ratio of two numbers of rows to mean something

struct Sums {
  uint64_t rows = 0;
  uint64_t named = 0;
  double same = 0;
  double fresh = 0;
  double test = 0;

  void Add(uint64_t more, double count, double expected) {
    rows += more;
    same += static_cast<double>(more) * count;
    fresh += static_cast<double>(more) * expected;
  }
};

// The share of a budget that the daemon gives a layer.
uint64_t ShareOf(uint64_t budget, uint64_t layer_bytes, uint64_t table_bytes) {
  const double part = static_cast<double>(layer_bytes) / static_cast<double>(table_bytes);
  return static_cast<uint64_t>(part * static_cast<double>(budget));
}

// Rows of one order of one layer that were asked for equally often.
struct Cell {
  size_t layer = 0;
  size_t order = 0;
  uint64_t count = 0;
  double expected = 0;
  uint64_t rows = 0;
};

std::vector<Cell> CellsOf(const LayerProfile& layer, size_t index, double& never_seen) {
  std::vector<Cell> cells;
  for (size_t o = 0; o < layer.orders.size(); ++o) {
    const OrderProfile& order = layer.orders[o];
    uint64_t rows = 0;
    for (const ProfiledColumn& column : layer.columns) {
      if (column.order == order.order) rows += column.rows;
    }
    const std::vector<double> expected = ExpectedCounts(order.classes, rows);
    for (size_t c = 0; c < order.classes.size(); ++c) {
      cells.push_back({index, o, order.classes[c].count, expected[c], order.classes[c].rows});
    }
    never_seen += expected.back();
  }
  // As the head is: by count, and of equal ones the lower orders, which have the lower ids.
  std::stable_sort(cells.begin(), cells.end(),
                   [](const Cell& a, const Cell& b) { return a.count > b.count; });
  return cells;
}

// Where a row of the head lies.
enum class Place : uint8_t { kNvme, kHbm, kDram };

// One layer's rows into their tiers.
class LayerFiller {
 public:
  LayerFiller(const LayerProfile& profile, uint32_t row_bytes, uint64_t hbm_bytes,
              uint64_t dram_bytes)
      : profile_(profile),
        cells_(CellsOf(profile, 0, never_seen_)),
        hbm_(gpu_cache::FitRegion(hbm_bytes, row_bytes, profile.rows)),
        hbm_taken_(hbm_.direct ? 0 : hbm_.sectors),
        dram_(dram::FitShape(dram_bytes, row_bytes, profile.rows)),
        taken_(resident() ? 0 : dram_.Slots() / dram::kWays) {}

  void Fill() {
    FillFromHead();
    FillFromLaw();
    FillWithTheNeverSeen();
  }
  // Adds up `test`'s look-ups in what Fill has placed by name.
  void Test(const LayerProfile& test) {
    std::vector<Place> places(profile_.rows, Place::kNvme);
    for (size_t i = 0; i < places_.size(); ++i) places[Raw(profile_.head[i].id)] = places_[i];
    for (const HotRow& row : test.head) {
      const Place place = places[Raw(row.id)];
      if (place == Place::kHbm) in_hbm_.test += row.count;
      if (place == Place::kDram || (place == Place::kNvme && resident())) {
        in_dram_.test += row.count;
      }
    }
  }

  const Sums& in_hbm() const { return in_hbm_; }
  const Sums& in_dram() const { return in_dram_; }
  double never_seen() const { return never_seen_; }

 private:
  bool resident() const { return dram_.mode == dram::Mode::kResident; }
  uint64_t HbmRoom() const { return hbm_.Slots() - std::min(hbm_.Slots(), in_hbm_.rows); }
  // What HBM holds lies in DRAM too.
  uint64_t DramRoom() const { return dram_.Slots() - std::min(dram_.Slots(), held_in_dram_); }

  bool TakeHbm(RowId id) {
    if (hbm_.direct) return true;
    if (hbm_.sectors == 0) return false;
    uint8_t& taken = hbm_taken_[gpu_cache::SectorOf(Raw(id), hbm_.sectors, false)];
    if (taken == gpu_cache::kWays) return false;
    ++taken;
    return true;
  }
  bool TakeDram(RowId id) {
    if (dram_.segments == 0) return false;
    if (!resident()) {
      uint8_t& taken = taken_[dram_.FirstSetOf(Raw(id))];
      if (taken == dram::kWays) return false;
      ++taken;
    }
    ++held_in_dram_;
    return true;
  }
  Place PlaceFor(RowId id) {
    const bool in_hbm = TakeHbm(id);
    const bool in_dram = TakeDram(id);
    return in_hbm ? Place::kHbm : in_dram ? Place::kDram : Place::kNvme;
  }

  // The head's rows of one count are ascending, so those of one order stand together, in the order
  // of the cells.
  void FillFromHead() {
    places_.reserve(profile_.head.size());
    size_t next = 0;
    for (Cell& cell : cells_) {
      for (; cell.rows > 0 && next < profile_.head.size(); ++next, --cell.rows) {
        const Place place = PlaceFor(profile_.head[next].id);
        places_.push_back(place);
        if (place == Place::kNvme) continue;
        Sums& sums = place == Place::kHbm ? in_hbm_ : in_dram_;
        sums.Add(1, static_cast<double>(cell.count), cell.expected);
        ++sums.named;
      }
    }
  }
  // Rows that the head does not name take what slots are left, the most frequent first.
  void FillFromLaw() {
    for (Cell& cell : cells_) {
      const uint64_t in_hbm = std::min(cell.rows, HbmRoom());
      const uint64_t held = std::min(cell.rows, DramRoom());
      const uint64_t in_dram = held - std::min(held, in_hbm);
      in_hbm_.Add(in_hbm, static_cast<double>(cell.count), cell.expected);
      in_dram_.Add(in_dram, static_cast<double>(cell.count), cell.expected);
      held_in_dram_ += held;
      cell.rows -= in_hbm + in_dram;
    }
  }
  // Some of the rows that nobody asked for, if there is room left.
  void FillWithTheNeverSeen() {
    const uint64_t all = profile_.rows - DistinctRows(profile_.Classes());
    if (all == 0) return;
    const uint64_t in_hbm = std::min(all, HbmRoom());
    const uint64_t held = std::min(all, DramRoom());
    const uint64_t in_dram = held - std::min(held, in_hbm);
    in_hbm_.fresh += never_seen_ * static_cast<double>(in_hbm) / static_cast<double>(all);
    in_dram_.fresh += never_seen_ * static_cast<double>(in_dram) / static_cast<double>(all);
  }

  const LayerProfile& profile_;
  double never_seen_ = 0;  // before cells_, whose making adds it up
  std::vector<Cell> cells_;
  const gpu_cache::RegionShape hbm_;
  std::vector<uint8_t> hbm_taken_;  // slots of each sector
  const dram::LayerShape dram_;
  std::vector<uint8_t> taken_;  // slots of each set
  uint64_t held_in_dram_ = 0;   // of them, all; of a resident layer, those that were placed
  std::vector<Place> places_;   // of the head's rows
  Sums in_hbm_;
  Sums in_dram_;
};

double RowBytes(uint32_t row_bytes) {
  const dram::LayerShape shape{.row_bytes = row_bytes};
  return static_cast<double>(shape.SetBytes() + dram::kLineBytes) / dram::kWays;
}

HitRatio Ratio(const Sums& sums, double lookups, std::optional<double> test_lookups) {
  HitRatio ratio;
  if (lookups > 0) ratio = {.same_text = sums.same / lookups, .new_text = sums.fresh / lookups};
  if (test_lookups.has_value() && *test_lookups > 0) ratio.test = sums.test / *test_lookups;
  return ratio;
}

// Fills HBM and DRAM with whole or parts of cells in the order given.
class Splitter {
 public:
  Splitter(const TableSpec& table, const RowProfile& profile) {
    for (size_t l = 0; l < profile.layers.size(); ++l) {
      double never_seen = 0;
      const std::vector<Cell> cells = CellsOf(profile.layers[l], l, never_seen);
      cells_.insert(cells_.end(), cells.begin(), cells.end());
      row_bytes_.push_back(RowBytes(table.FindLayer(profile.layers[l].id)->row_bytes));
      lookups_ += static_cast<double>(Accesses(profile.layers[l].Classes()));
    }
  }

  // Each layer within its own share of the budgets.
  SplitPlan ByShares(const std::vector<TierBudgets>& shares) {
    SplitPlan plan = Empty("bytes");
    Sort([](const Cell& cell) { return static_cast<double>(cell.count); });
    Sums hbm, dram;
    for (size_t l = 0; l < shares.size(); ++l) {
      Fill([&](const Cell& cell) { return cell.layer == l; }, shares[l], plan, hbm, dram);
    }
    return Finish(std::move(plan), hbm, dram);
  }
  // All layers together, what is worth most a byte first.
  template <typename Worth>
  SplitPlan ByWorth(std::string by, const TierBudgets& budgets, Worth worth) {
    SplitPlan plan = Empty(std::move(by));
    Sort([&](const Cell& cell) { return worth(cell) / row_bytes_[cell.layer]; });
    Sums hbm, dram;
    Fill([](const Cell&) { return true; }, budgets, plan, hbm, dram);
    return Finish(std::move(plan), hbm, dram);
  }

 private:
  SplitPlan Empty(std::string by) const {
    return {.by = std::move(by),
            .layer_bytes = std::vector<uint64_t>(row_bytes_.size()),
            .hbm = {},
            .dram = {}};
  }
  SplitPlan Finish(SplitPlan plan, const Sums& hbm, const Sums& dram) const {
    plan.hbm = Ratio(hbm, lookups_, {});
    plan.dram = Ratio(dram, lookups_, {});
    return plan;
  }
  template <typename Key>
  void Sort(Key key) {
    std::stable_sort(cells_.begin(), cells_.end(),
                     [&](const Cell& a, const Cell& b) { return key(a) > key(b); });
  }
  template <typename Takes>
  void Fill(Takes takes, const TierBudgets& budgets, SplitPlan& plan, Sums& hbm, Sums& dram) const {
    double room[2] = {static_cast<double>(budgets.hbm_bytes),
                      static_cast<double>(budgets.dram_bytes)};
    for (const Cell& cell : cells_) {
      if (!takes(cell)) continue;
      const double row_bytes = row_bytes_[cell.layer];
      uint64_t held[2];
      for (int tier = 0; tier < 2; ++tier) {
        held[tier] = std::min(cell.rows, static_cast<uint64_t>(room[tier] / row_bytes));
        const double bytes = static_cast<double>(held[tier]) * row_bytes;
        room[tier] = std::max(0.0, room[tier] - bytes);
        plan.layer_bytes[cell.layer] += static_cast<uint64_t>(bytes);
      }
      hbm.Add(held[0], static_cast<double>(cell.count), cell.expected);
      dram.Add(held[1] - std::min(held[0], held[1]), static_cast<double>(cell.count),
               cell.expected);
    }
  }

  std::vector<Cell> cells_;
  std::vector<double> row_bytes_;  // of each layer, everything counted
  double lookups_ = 0;
};

absl::Status CheckTest(const TableSpec& table, const RowProfile& test) {
  ENGRAM_RETURN_IF_ERROR(test.CheckFor(table));
  for (const LayerProfile& layer : test.layers) {
    const uint64_t distinct = DistinctRows(layer.Classes());
    if (layer.head.size() == distinct) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "the test profile names only ", layer.head.size(), " of the ", distinct, " rows of layer ",
        Raw(layer.id), " that its text asks for; make it with ", "profile --head ", distinct));
  }
  return absl::OkStatus();
}

void AddTo(Sums& sum, const Sums& more) {
  sum.rows += more.rows;
  sum.named += more.named;
  sum.same += more.same;
  sum.fresh += more.fresh;
  sum.test += more.test;
}

TierPlan PlanOf(uint64_t bytes, const Sums& sums, double lookups,
                std::optional<double> test_lookups) {
  return {.bytes = bytes,
          .rows = sums.rows,
          .named = sums.named,
          .hits = Ratio(sums, lookups, test_lookups)};
}

}  // namespace

std::vector<double> ExpectedCounts(const std::vector<CountClass>& classes, uint64_t rows) {
  std::vector<double> expected;
  for (const CountClass& each : classes) expected.push_back(static_cast<double>(each.count));
  // Classes 1, 2, 3 … from the back on, as far as they are large.
  size_t small = 0;
  while (small < classes.size()) {
    const CountClass& each = classes[classes.size() - 1 - small];
    if (each.count != small + 1 || each.rows < kEnoughRows) break;
    ++small;
  }
  // Without a large class of two there is nothing to go by; nor is anything never seen if all is.
  if (small < 2 || DistinctRows(classes) == rows) {
    expected.push_back(0);
    return expected;
  }
  for (size_t i = 1; i < small; ++i) {
    const CountClass& of = classes[classes.size() - i];
    const CountClass& above = classes[classes.size() - i - 1];
    expected[classes.size() - i] =
        static_cast<double>(above.count * above.rows) / static_cast<double>(of.rows);
  }
  // The last large class is now in the one below, so those from it on share what it had less.
  const std::vector<CountClass> rest(classes.begin(),
                                     classes.end() - static_cast<ptrdiff_t>(small - 1));
  const auto rest_sum = static_cast<double>(Accesses(rest));
  const auto counted = static_cast<double>(rest.back().count * rest.back().rows);
  for (size_t i = 0; i < rest.size(); ++i) expected[i] *= 1 - counted / rest_sum;
  expected.push_back(static_cast<double>(classes.back().rows));
  return expected;
}

absl::StatusOr<PlacementPlan> PlanPlacement(const TableSpec& table, const RowProfile& profile,
                                            const TierBudgets& budgets, const RowProfile* test) {
  ENGRAM_RETURN_IF_ERROR(profile.CheckFor(table));
  if (test != nullptr) ENGRAM_RETURN_IF_ERROR(CheckTest(table, *test));
  PlacementPlan plan;
  Sums hbm, dram;
  double lookups = 0, never_seen = 0;
  std::optional<double> test_lookups;
  std::vector<TierBudgets> shares;
  for (const LayerProfile& layer : profile.layers) {
    const LayerSpec& spec = *table.FindLayer(layer.id);
    const TierBudgets share = {
        .hbm_bytes = ShareOf(budgets.hbm_bytes, spec.bytes(), table.bytes()),
        .dram_bytes = ShareOf(budgets.dram_bytes, spec.bytes(), table.bytes())};
    LayerFiller filler(layer, spec.row_bytes, share.hbm_bytes, share.dram_bytes);
    filler.Fill();
    LayerPlan& of = plan.layers.emplace_back();
    of.id = layer.id;
    of.lookups = Accesses(layer.Classes());
    const auto layer_lookups = static_cast<double>(of.lookups);
    std::optional<double> layer_test;
    if (test != nullptr) {
      const LayerProfile& tested = *test->FindLayer(layer.id);
      filler.Test(tested);
      layer_test = static_cast<double>(Accesses(tested.Classes()));
      test_lookups = test_lookups.value_or(0) + *layer_test;
    }
    of.hbm = PlanOf(share.hbm_bytes, filler.in_hbm(), layer_lookups, layer_test);
    of.dram = PlanOf(share.dram_bytes, filler.in_dram(), layer_lookups, layer_test);
    of.never_seen = layer_lookups > 0 ? filler.never_seen() / layer_lookups : 0;
    AddTo(hbm, filler.in_hbm());
    AddTo(dram, filler.in_dram());
    lookups += layer_lookups;
    never_seen += filler.never_seen();
    shares.push_back(share);
  }
  plan.hbm = PlanOf(budgets.hbm_bytes, hbm, lookups, test_lookups);
  plan.dram = PlanOf(budgets.dram_bytes, dram, lookups, test_lookups);
  plan.never_seen = lookups > 0 ? never_seen / lookups : 0;
  Splitter splitter(table, profile);
  plan.splits.push_back(splitter.ByShares(shares));
  plan.splits.push_back(splitter.ByWorth(
      "frequency", budgets, [](const Cell& cell) { return static_cast<double>(cell.count); }));
  plan.splits.push_back(splitter.ByWorth("expected frequency", budgets,
                                         [](const Cell& cell) { return cell.expected; }));
  return plan;
}

}  // namespace engram
