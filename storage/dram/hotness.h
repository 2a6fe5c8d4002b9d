// Which rows are worth a way of their set: a frequency sketch of one layer, fed by sampled
// accesses, and the decision whom an offered row replaces.
//
// Each set of the cache has one line of 64 bytes: a count for each of its 15 ways, and 24 ghosts,
// short tags with counts of rows that were asked for and are not held. A row that is not known
// takes the place of the weakest ghost, whose count is c, with probability 1 / (c + 1), and goes on
// from c + 1 (randomised admission: Ben Basat, Einziger, Friedman and Kassner, "Randomized
// admission policy for efficient top-k and frequency estimation", INFOCOM 2017, arXiv:1612.02962).
// So the many rows that come once seldom push out the few that come again. A ghost that is met
// again and then has a greater count than the weakest row of the set takes its way; that row
// becomes a ghost with the count that it had.
//
// Only counts of one set are ever compared, so each set ages by itself: when a ghost reaches
// kMaxGhostCount, all counts of the set are halved. A set so remembers as long as it takes to tell
// its rows apart, however rare they are. What that is too slow for is noticed: when the popular
// rows move, accesses that meet ghosts become frequent beside those that meet held rows. (A scan of
// rows that come once changes neither.) Then all counts are forgotten at once, set by set as each
// is next touched; rows stay until others replace them.
//
// Under kAdaptive some or most sets are ruled by second chance instead, while all of the above goes
// on being counted.
//
// A count-min sketch of the same size was tried and is much worse: rows that come once fill its
// counters (RESULTS.md of tests/bench has the figures).
//
// Threads: any number may call anything at once. Lines are relaxed atomics, and a count lost to a
// race is one access more that was not sampled. Only the set's current writer may call Decide, so
// that its tags and the writer's part of its state word stand still.
// Memory: sizeof(HotLine) a set, the caller's, zeroed: 1.6 % of a cache of 264-byte rows.
#ifndef ENGRAM_STORAGE_DRAM_HOTNESS_H_
#define ENGRAM_STORAGE_DRAM_HOTNESS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "storage/dram/layout.h"
#include "storage/dram/policy_duel.h"

namespace engram::dram {

inline constexpr uint32_t kGhosts = 24;
inline constexpr uint32_t kGhostTagBits = 11;
inline constexpr uint32_t kGhostCountBits = 5;
inline constexpr uint32_t kMaxGhostCount = (1u << kGhostCountBits) - 1;
inline constexpr uint32_t kMaxCount = 255;

// One set's counts. All zeros is a set of which nothing is known.
struct alignas(kLineBytes) HotLine {
  uint8_t epoch;             // of the sketch, when this line was last touched
  uint8_t counts[kWays];     // of the rows in the set's ways
  uint16_t ghosts[kGhosts];  // 11 bits of a row's hash above, 5 bits of count below; 0: free
};
static_assert(sizeof(HotLine) == kLineBytes);

enum class Admission {
  kAdaptive,   // kFrequency, or every row by second chance where that misses less (policy_duel.h)
  kFrequency,  // rows that are asked for more often than those they replace
  kAll,        // every row, by second chance
  kPrefetch,   // only what prefetches bring, by second chance
};

// Prefetched rows pass admission by, but have at most so many ways of a set (kFrequency) until they
// are read. A further one replaces one of those, in turn.
inline constexpr uint32_t kStagingWays = 3;
// After so many offers of missed rows to a set without a prefetch, its prefetched rows have expired
// and are replaced like any other: about the time in which twice the cache's rows were missed.
inline constexpr uint32_t kStagingOffers = 31;
// Where the state word counts those offers; the bits are free in layout.h.
inline constexpr int kStagingShift = 20;

// What to do with an offered row.
struct Decision {
  int way = -1;            // that takes the row; −1: the row is not admitted
  bool was_empty = false;  // nothing is replaced there
  // The set's new state is (state & ~clear) | set: clears and sets atomically one after the other,
  // for readers set used-bits and take marks meanwhile. `clear` has the way's mark: where it was
  // set, a prefetched row was never read.
  uint64_t clear = 0;
  uint64_t set = 0;
};

class Hotness {
 public:
  // For a cache of `sets` sets. `sets` only says how long to look before changes are believed.
  explicit Hotness(uint32_t sets, Admission admission = Admission::kAdaptive);
  Hotness(const Hotness&) = delete;
  Hotness& operator=(const Hotness&) = delete;

  Admission admission() const { return admission_; }
  // What rules most sets of kAdaptive.
  Policy policy() const { return duel_.winner(); }

  // One sampled access that found its row in the cache. `weight` is how many accesses it stands
  // for (one of how many is sampled), 1 to kMaxCount. `tags` is the row's set. A row that is no
  // longer held only has its ghost's count raised. Returns the row's way, −1 if it is not held.
  int Touch(HotLine& line, TagLine& tags, uint32_t row_id, uint32_t weight);

  // Whether and where to put a row that an access missed; counts that access. `state` is the set's
  // word. Requires that the row is not held and the caller has the set.
  Decision Decide(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id);
  // The same for a row that a prefetch brought, which counts as no access. The decision's `set`
  // has the row's mark.
  Decision DecidePrefetched(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id);

  // The same for a row that is known to be asked for `count` times, from a profile or an earlier
  // process: it takes an empty way, else that of the weakest row if that one's count is lower (of
  // kAll: only an empty way; of kPrefetch: none). It has at least this count from then on.
  Decision DecidePlaced(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id,
                        uint32_t count);
  // Whether a row that is not held would be placed now. For callers without the set, as advice.
  bool HasRoom(HotLine& line, TagLine& tags, uint64_t state, uint32_t count);
  // The count of the row in this way.
  uint32_t CountOf(HotLine& line, int way);

  // The row's count, 0 if nothing is known of it.
  uint32_t Estimate(HotLine& line, TagLine& tags, uint32_t row_id);
  // Raises what is known of a row to `count`, as saved by an earlier process: of a held row its
  // count, else that of a ghost, if it is greater than the weakest ghost's.
  void Recall(HotLine& line, TagLine& tags, uint32_t row_id, uint32_t count);

  // What lines of an earlier sketch say stays known, if this is their epoch. Before anything else
  // is called.
  void ResumeEpoch(uint32_t epoch) { epoch_.store(epoch, std::memory_order_relaxed); }

  // How often a move of the popular rows was noticed and all counts forgotten.
  uint64_t times_forgotten() const { return forgotten_.load(std::memory_order_relaxed); }

 private:
  // Counts are kept, and rows compared by them: not of kAll and kPrefetch.
  bool Counts() const {
    return admission_ == Admission::kAdaptive || admission_ == Admission::kFrequency;
  }
  bool ByRecency(const HotLine& line) const;
  void Refresh(HotLine& line) const;
  uint32_t RaiseGhost(HotLine& line, int ghost, uint32_t by) const;
  void OnMiss(HotLine& line, uint32_t row_id);
  void Remember(HotLine& line, uint32_t row_id, uint32_t count);
  uint32_t TakeGhost(HotLine& line, uint32_t row_id);
  Decision Contest(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id);
  Decision TakeTurn(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id);
  Decision Place(HotLine& line, TagLine& tags, uint64_t state, uint32_t count);
  bool OneIn(uint32_t row_id, uint32_t n);

  // Accesses that met something known.
  struct Known {
    uint64_t samples;     // of held rows
    uint64_t rows;        // that the samples stand for
    uint64_t ghosts;      // all of these are counted
    uint64_t all_ghosts;  // with those that were met by chance
    uint64_t Total() const { return rows + ghosts; }
  };
  void DetectShift(const Known& known);
  Known MetSinceReview() const;
  void Review();

  const Admission admission_;
  PolicyDuel duel_;
  const uint64_t period_;
  const int quiet_periods_;

  // Relaxed throughout: numbers to go by, nothing else is read through them.
  std::atomic<uint32_t> epoch_{0};
  std::atomic<uint64_t> tosses_{0};
  std::atomic<uint64_t> forgotten_{0};
  // Accesses since the last review that met a held row, that missed, and that met a ghost then.
  std::atomic<uint64_t> met_rows_{0};
  std::atomic<uint64_t> missed_{0};
  std::atomic<uint64_t> met_ghosts_{0};

  // Try-lock (acquire; cleared by release) of the three below.
  std::atomic<bool> reviewing_{false};
  int quiet_left_;
  double change_sum_ = 0;
  double usual_ghosts_ = -1;  // their share among what is met; −1: not known yet
};

// Second chance: the hand passes over the ways that were used since it last came by, and takes the
// first that was not.
Decision SecondChance(uint64_t state);

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_HOTNESS_H_
