// Predicts what a static placement of a table's most frequent rows would serve: the first rows of a
// profile in HBM and DRAM, the next in DRAM alone, the rest on NVMe.
//
// Two readings of each hit ratio. `same_text`: of the text that was counted, so an upper bound.
// `new_text`: of text of the same kind and length that shares nothing else with it, by Good and
// Turing: of n(c) rows seen c times each, the look-ups of as much text to come are expected to be
// (c + 1) × n(c + 1), and those of rows never seen n(1) (I. J. Good, Biometrika 40, 1953). It is
// applied order by order, up to the first c whose n(c + 1) is below 100; rows seen more often keep
// their counts but for one factor that makes the sum right. It takes look-ups to be independent;
// text that keeps to its own topics has more new rows.
// Pure functions, safe from any thread.
#ifndef ENGRAM_CLIENT_CLI_PLACEMENT_H_
#define ENGRAM_CLIENT_CLI_PLACEMENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/profile/row_profile.h"
#include "storage/table/spec.h"

namespace engram {

struct TierBudgets {
  uint64_t hbm_bytes = 0;
  uint64_t dram_bytes = 0;
};

// Shares of look-ups, 0 to 1.
struct HitRatio {
  double same_text = 0;
  double new_text = 0;
  std::optional<double> test = {};  // of the test profile's look-ups, where there is one
};

struct TierPlan {
  uint64_t bytes = 0;  // the budget's part, everything counted
  uint64_t rows = 0;   // that have room and were asked for in the profile
  uint64_t named = 0;  // of them, those of the head; the others cannot be placed by this profile
  HitRatio hits;
};

struct LayerPlan {
  LayerId id{};
  uint64_t lookups = 0;
  double never_seen = 0;  // share of new text's look-ups that go to rows the profile never saw
  TierPlan hbm;
  TierPlan dram;
};

// What hit ratios another division of both budgets would give, if any row could lie in any slot.
struct SplitPlan {
  std::string by;                     // "bytes", "frequency", "expected frequency"
  std::vector<uint64_t> layer_bytes;  // of both tiers, in the order of layers
  HitRatio hbm;
  HitRatio dram;
};

struct PlacementPlan {
  std::vector<LayerPlan> layers;
  TierPlan hbm;  // of all layers
  TierPlan dram;
  double never_seen = 0;
  // By bytes: as the layers above, but for slots. By frequency: the most frequent rows of all
  // layers, by count and byte. By expected frequency: the same with the counts that new text is
  // expected to have, which differ by n-gram order.
  std::vector<SplitPlan> splits;
};

// What rows seen as often as each class are expected to be asked for in as much new text; `rows` is
// how many rows the order has. The last entry, behind those of the classes, is the sum for rows
// never seen.
std::vector<double> ExpectedCounts(const std::vector<CountClass>& classes, uint64_t rows);

// Layers share the budgets by their bytes, as the daemon's active tables do, with its cache's own
// bytes a row; a DRAM tier that does not hold the whole layer has 15 slots for all rows of one
// hash, so some of the first rows find theirs taken; an HBM tier has eight. What HBM holds lies in
// DRAM too, where there is room: DRAM's hits are of what it holds beside that.
// `test`: null, or a profile of other text, of which every row asked for is in its head.
// Errors of RowProfile::CheckFor for either; InvalidArgument if the test's head is cut short.
absl::StatusOr<PlacementPlan> PlanPlacement(const TableSpec& table, const RowProfile& profile,
                                            const TierBudgets& budgets, const RowProfile* test);

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_PLACEMENT_H_
