#include "storage/dram/hotness.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "storage/dram/reader.h"

namespace engram::dram {
namespace {

// A review wants so many accesses that met something. Larger caches wait for a 32nd of their rows,
// so that one long batch is not taken for a change.
constexpr uint64_t kLeastPeriod = 512;
constexpr uint64_t kPeriodsOfCache = 32;
// Whether the share of ghosts has grown is told by a cumulative sum (Page, "Continuous inspection
// schemes", Biometrika 41, 1954): what a review finds above a threshold, in standard deviations, is
// added up, what it finds below is taken off, and a change is believed at kChangeSum; no single
// review gives more than kMostOfReview. The threshold is kChangeFactor times the usual, and at
// least kChangeLeast more: a cache that hits nearly always has little to win by forgetting. Under
// Zipf's law with α 0.8 to 1.05 the share is 1.4 to 1.9 times the usual when half of the popular
// rows have moved, and over 2 when all have.
constexpr double kChangeFactor = 1.15;
constexpr double kChangeLeast = 0.015;
constexpr double kChangeSum = 8;
constexpr double kMostOfReview = 5;
constexpr double kUsualWeight = 1.0 / 32;  // of the newest review in what is usual
// While a cache learns, the share of ghosts grows by itself. No change is believed until it has
// stood still for so long, in cache sizes.
constexpr uint64_t kQuietCaches = 4;
constexpr uint64_t kLeastQuietPeriods = 64;

// Both numbers of met_rows_ in one word: how many samples, and what they stand for.
constexpr int kSamplesShift = 40;
constexpr uint64_t kOneSample = uint64_t{1} << kSamplesShift;

constexpr uint64_t kHandMask = uint64_t{0xF} << kHandShift;
constexpr uint64_t kStagingMask = uint64_t{kStagingOffers} << kStagingShift;

template <typename T>
std::atomic_ref<T> Word(T& word) {
  return std::atomic_ref<T>(word);
}
template <typename T>
T Load(T& word) {
  return Word(word).load(std::memory_order_relaxed);
}
template <typename T>
void Store(T& word, uint32_t value) {
  Word(word).store(static_cast<T>(value), std::memory_order_relaxed);
}

// The finaliser of splitmix64 (Vigna).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Not HashRowId: rows of one set have its upper bits in common.
uint32_t GhostTag(uint32_t row_id) {
  return static_cast<uint32_t>(Mix(row_id + 0x9E3779B97F4A7C15ull)) & ((1u << kGhostTagBits) - 1);
}
uint32_t TagOfGhost(uint32_t ghost) { return ghost >> kGhostCountBits; }
uint32_t CountOfGhost(uint32_t ghost) { return ghost & kMaxGhostCount; }
uint32_t MakeGhost(uint32_t tag, uint32_t count) { return tag << kGhostCountBits | count; }

// The ghost with this tag, or −1. One without a count is free.
int FindGhost(HotLine& line, uint32_t tag) {
  for (uint32_t i = 0; i < kGhosts; ++i) {
    const uint32_t ghost = Load(line.ghosts[i]);
    if (TagOfGhost(ghost) == tag && CountOfGhost(ghost) > 0) return static_cast<int>(i);
  }
  return -1;
}

int WeakestGhost(HotLine& line) {
  uint32_t least = kMaxGhostCount + 1;
  int weakest = 0;
  for (uint32_t i = 0; i < kGhosts; ++i) {
    const uint32_t count = CountOfGhost(Load(line.ghosts[i]));
    if (count >= least) continue;
    least = count;
    weakest = static_cast<int>(i);
  }
  return weakest;
}

// The way with the smallest count but those in `spared`, which are not all.
int WeakestWay(HotLine& line, uint64_t spared) {
  uint32_t least = kMaxCount + 1;
  int weakest = 0;
  for (uint32_t way = 0; way < kWays; ++way) {
    const uint32_t count = Load(line.counts[way]);
    if (count >= least || (spared >> way & 1) != 0) continue;
    least = count;
    weakest = static_cast<int>(way);
  }
  return weakest;
}

void HalveCounts(HotLine& line) {
  for (uint8_t& count : line.counts) Store(count, Load(count) / 2u);
  for (uint16_t& ghost : line.ghosts) {
    const uint32_t old = Load(ghost);
    Store(ghost, MakeGhost(TagOfGhost(old), CountOfGhost(old) / 2));
  }
}

// Adds to a way's count; the sum stays at its greatest.
void RaiseCount(HotLine& line, int way, uint32_t by) {
  const uint32_t count = Load(line.counts[way]);
  Store(line.counts[way], std::min(kMaxCount, count + by));
}

uint64_t MarkOf(int way) { return uint64_t{1} << (kPrefetchedShift + way); }
uint64_t MarksOf(uint64_t state) { return state >> kPrefetchedShift & kUsedMask; }
uint32_t StagingAge(uint64_t state) {
  return static_cast<uint32_t>((state & kStagingMask) >> kStagingShift);
}

// Takes a way: what was known of the row that was there goes.
Decision TakeWay(int way, bool was_empty) {
  return {
      .way = way, .was_empty = was_empty, .clear = (uint64_t{1} << way) | MarkOf(way), .set = 0};
}

// The first marked way from the hand on, which goes on behind it: prefetched rows in turn.
Decision NextStaged(uint64_t state) {
  auto way = static_cast<uint32_t>((state & kHandMask) >> kHandShift);
  while ((MarksOf(state) >> way & 1) == 0) way = (way + 1) % kWays;
  Decision decision = TakeWay(static_cast<int>(way), false);
  decision.clear |= kHandMask;
  decision.set |= uint64_t{(way + 1) % kWays} << kHandShift;
  return decision;
}

}  // namespace

Decision SecondChance(uint64_t state) {
  const auto hand = static_cast<uint32_t>((state & kHandMask) >> kHandShift);
  uint32_t way = hand;
  uint64_t passed = 0;
  while ((state >> way & 1) != 0 && (passed & kUsedMask) != kUsedMask) {
    passed |= uint64_t{1} << way;
    way = (way + 1) % kWays;
  }
  // After a full turn the hand is where it began, and that way goes.
  Decision decision = TakeWay(static_cast<int>(way), false);
  decision.clear |= passed | kHandMask;
  decision.set |= uint64_t{(way + 1) % kWays} << kHandShift;
  return decision;
}

Hotness::Hotness(uint32_t sets, Admission admission)
    : admission_(admission),
      duel_(sets),
      period_(std::max(kLeastPeriod, uint64_t{sets} * kWays / kPeriodsOfCache)),
      quiet_periods_(static_cast<int>(
          std::max<uint64_t>(kLeastQuietPeriods, kQuietCaches * sets * kWays / period_))),
      quiet_left_(quiet_periods_) {}

// Lines of a segment follow one another from a page's beginning, so a line's address has the number
// of its set modulo 64.
size_t SetNumber(const HotLine& line) { return reinterpret_cast<uintptr_t>(&line) / kLineBytes; }

bool Hotness::ByRecency(const HotLine& line) const {
  return admission_ == Admission::kAdaptive && duel_.PolicyOf(SetNumber(line)) == Policy::kRecency;
}

// Forgets what a line knew before the sketch's epoch.
void Hotness::Refresh(HotLine& line) const {
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed) & 0xFF;
  if (Load(line.epoch) == epoch) return;
  for (uint8_t& count : line.counts) Store(count, 0);
  for (uint16_t& ghost : line.ghosts) Store(ghost, 0);
  Store(line.epoch, epoch);
}

// Adds to a ghost's count, and returns what it is then. At kMaxGhostCount the set's counts are
// halved.
uint32_t Hotness::RaiseGhost(HotLine& line, int ghost, uint32_t by) const {
  const uint32_t old = Load(line.ghosts[ghost]);
  const uint32_t count = std::min(kMaxGhostCount, CountOfGhost(old) + by);
  Store(line.ghosts[ghost], MakeGhost(TagOfGhost(old), count));
  if (count < kMaxGhostCount) return count;
  HalveCounts(line);
  return count / 2;
}

bool Hotness::OneIn(uint32_t row_id, uint32_t n) {
  const uint64_t toss = tosses_.fetch_add(1, std::memory_order_relaxed);
  return Mix(toss * 0x9E3779B97F4A7C15ull ^ row_id) % n == 0;
}

// A row of which nothing is known was missed.
void Hotness::OnMiss(HotLine& line, uint32_t row_id) {
  const int weakest = WeakestGhost(line);
  const uint32_t count = CountOfGhost(Load(line.ghosts[weakest]));
  if (count > 0 && !OneIn(row_id, count + 1)) return;
  Store(line.ghosts[weakest], MakeGhost(GhostTag(row_id), count));
  RaiseGhost(line, weakest, 1);
}

// Makes a ghost of a row that is not held, unless all ghosts are stronger.
void Hotness::Remember(HotLine& line, uint32_t row_id, uint32_t count) {
  const uint32_t tag = GhostTag(row_id);
  const int known = FindGhost(line, tag);
  const int place = known >= 0 ? known : WeakestGhost(line);
  const uint32_t kept = std::min(count, kMaxGhostCount - 1);  // the greatest would have been halved
  if (CountOfGhost(Load(line.ghosts[place])) >= kept) return;
  Store(line.ghosts[place], MakeGhost(tag, kept));
}

// What was known of a row that is not held and now gets a way; it is a ghost no more.
uint32_t Hotness::TakeGhost(HotLine& line, uint32_t row_id) {
  const int ghost = FindGhost(line, GhostTag(row_id));
  if (ghost < 0) return 0;
  const uint32_t count = CountOfGhost(Load(line.ghosts[ghost]));
  Store(line.ghosts[ghost], 0);
  return count;
}

int Hotness::Touch(HotLine& line, TagLine& tags, uint32_t row_id, uint32_t weight) {
  const int way = MatchWay(tags, TagOf(row_id));
  if (!Counts()) return way;
  Refresh(line);
  if (way < 0) {
    const int ghost = FindGhost(line, GhostTag(row_id));
    if (ghost >= 0) RaiseGhost(line, ghost, weight);
    return way;
  }
  // The first use of a row that a prefetch brought is one access, whatever the sample stands for:
  // a prefetched scan must not look popular.
  RaiseCount(line, way, Load(line.counts[way]) == 0 ? 1 : weight);
  if (ByRecency(line)) return way;
  met_rows_.fetch_add(kOneSample + weight, std::memory_order_relaxed);
  Review();
  return way;
}

Decision Hotness::Decide(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id) {
  if (admission_ == Admission::kPrefetch) return {};
  const int empty = MatchWay(tags, kEmptyTag);
  if (admission_ == Admission::kAll) return empty >= 0 ? TakeWay(empty, true) : SecondChance(state);
  Refresh(line);
  if (empty >= 0) {
    Store(line.counts[empty], TakeGhost(line, row_id) + 1);
    return TakeWay(empty, true);
  }
  if (admission_ == Admission::kAdaptive) duel_.Missed(SetNumber(line));
  if (ByRecency(line)) return TakeTurn(line, tags, state, row_id);
  Decision decision = Contest(line, tags, state, row_id);
  const uint32_t age = StagingAge(state);
  if (MarksOf(state) != 0 && age < kStagingOffers) {
    decision.clear |= kStagingMask;
    decision.set |= uint64_t{age + 1} << kStagingShift;
  }
  return decision;
}

// The missed row against the weakest of a full set.
Decision Hotness::Contest(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id) {
  const uint64_t marks = MarksOf(state);
  const bool expired = StagingAge(state) >= kStagingOffers || marks == kUsedMask;
  const int weakest = WeakestWay(line, expired ? 0 : marks);
  const uint32_t least = Load(line.counts[weakest]);
  const int ghost = FindGhost(line, GhostTag(row_id));
  missed_.fetch_add(1, std::memory_order_relaxed);
  if (ghost < 0) {
    if (least > 0) {
      OnMiss(line, row_id);
      return {};
    }
    // Nobody has asked for the row in that way: nothing to protect.
    Store(line.counts[weakest], 1);
    return TakeWay(weakest, false);
  }
  met_ghosts_.fetch_add(1, std::memory_order_relaxed);
  Review();
  const bool wins = CountOfGhost(Load(line.ghosts[ghost])) + 1 > least;
  const uint32_t count = RaiseGhost(line, ghost, 1);
  if (!wins) return {};
  // They change places: the row that goes is a ghost from now on.
  const uint32_t kept = std::min<uint32_t>(kMaxGhostCount - 1, Load(line.counts[weakest]));
  const uint32_t replaced = TagOf(Load(tags.tags[weakest]));
  Store(line.ghosts[ghost], MakeGhost(GhostTag(replaced), kept));
  Store(line.counts[weakest], count);
  return TakeWay(weakest, false);
}

// The missed row takes a way of a full set in any case. What is known of it and of the row that
// goes is kept, for the day on which frequency rules the set.
Decision Hotness::TakeTurn(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id) {
  const Decision decision = SecondChance(state);
  uint32_t count = 1;
  if (const int ghost = FindGhost(line, GhostTag(row_id)); ghost >= 0) {
    count = RaiseGhost(line, ghost, 1);
    Store(line.ghosts[ghost], 0);
  }
  Remember(line, TagOf(Load(tags.tags[decision.way])), Load(line.counts[decision.way]));
  Store(line.counts[decision.way], count);
  return decision;
}

Decision Hotness::DecidePrefetched(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id) {
  const int empty = MatchWay(tags, kEmptyTag);
  Decision decision;
  if (empty >= 0) {
    decision = TakeWay(empty, true);
  } else if (!Counts() || ByRecency(line)) {
    decision = SecondChance(state);
  } else if (std::popcount(MarksOf(state)) >= static_cast<int>(kStagingWays)) {
    decision = NextStaged(state);
  } else {
    decision = TakeWay(WeakestWay(line, MarksOf(state)), false);
  }
  if (Counts()) {
    Refresh(line);
    if (admission_ == Admission::kAdaptive && empty < 0) duel_.Missed(SetNumber(line));
    const uint32_t known = TakeGhost(line, row_id);
    uint8_t& count = line.counts[decision.way];
    if (!decision.was_empty) Remember(line, TagOf(Load(tags.tags[decision.way])), Load(count));
    Store(count, known);
    decision.clear |= kStagingMask;
  }
  decision.set |= MarkOf(decision.way);
  return decision;
}

// The way for a placed row, nothing changed yet.
Decision Hotness::Place(HotLine& line, TagLine& tags, uint64_t state, uint32_t count) {
  if (admission_ == Admission::kPrefetch) return {};
  if (const int empty = MatchWay(tags, kEmptyTag); empty >= 0) return TakeWay(empty, true);
  // Prefetched rows will be asked for, or they expire: they are not for us.
  if (admission_ == Admission::kAll || MarksOf(state) == kUsedMask) return {};
  Refresh(line);
  const int weakest = WeakestWay(line, MarksOf(state));
  return Load(line.counts[weakest]) < count ? TakeWay(weakest, false) : Decision();
}

bool Hotness::HasRoom(HotLine& line, TagLine& tags, uint64_t state, uint32_t count) {
  return Place(line, tags, state, count).way >= 0;
}

Decision Hotness::DecidePlaced(HotLine& line, TagLine& tags, uint64_t state, uint32_t row_id,
                               uint32_t count) {
  const Decision decision = Place(line, tags, state, count);
  if (decision.way < 0 || !Counts()) return decision;
  Refresh(line);
  const uint32_t known = TakeGhost(line, row_id);
  uint8_t& place = line.counts[decision.way];
  if (!decision.was_empty) Remember(line, TagOf(Load(tags.tags[decision.way])), Load(place));
  Store(place, std::min(kMaxCount, std::max(known, count)));
  return decision;
}

uint32_t Hotness::CountOf(HotLine& line, int way) {
  Refresh(line);
  return Load(line.counts[way]);
}

uint32_t Hotness::Estimate(HotLine& line, TagLine& tags, uint32_t row_id) {
  Refresh(line);
  const int way = MatchWay(tags, TagOf(row_id));
  if (way >= 0) return Load(line.counts[way]);
  const int ghost = FindGhost(line, GhostTag(row_id));
  return ghost >= 0 ? CountOfGhost(Load(line.ghosts[ghost])) : 0;
}

void Hotness::Recall(HotLine& line, TagLine& tags, uint32_t row_id, uint32_t count) {
  Refresh(line);
  const int way = MatchWay(tags, TagOf(row_id));
  if (way < 0) {
    Remember(line, row_id, count);
  } else if (Load(line.counts[way]) < count) {
    Store(line.counts[way], std::min(count, kMaxCount));
  }
}

// Of the ghosts that misses met, so many were met by chance: by other rows of the same tag.
Hotness::Known Hotness::MetSinceReview() const {
  const uint64_t ghosts = met_ghosts_.load(std::memory_order_relaxed);
  const uint64_t chance = missed_.load(std::memory_order_relaxed) * kGhosts >> kGhostTagBits;
  const uint64_t rows = met_rows_.load(std::memory_order_relaxed);
  return {.samples = rows >> kSamplesShift,
          .rows = rows & (kOneSample - 1),
          .ghosts = ghosts - std::min(ghosts, chance),
          .all_ghosts = ghosts};
}

// Forgets all if the share of ghosts has grown.
void Hotness::DetectShift(const Known& known) {
  const auto total = static_cast<double>(known.Total());
  const double share = static_cast<double>(known.ghosts) / total;
  if (usual_ghosts_ < 0) usual_ghosts_ = share;
  // The variances of both counts: that of the ghosts is their number, with those by chance; a
  // sample of the rows stands for several.
  const double rows_variance = static_cast<double>(known.rows) * static_cast<double>(known.rows) /
                               static_cast<double>(std::max<uint64_t>(1, known.samples));
  const double deviation =
      std::sqrt((1 - usual_ghosts_) * (1 - usual_ghosts_) * static_cast<double>(known.all_ghosts) +
                usual_ghosts_ * usual_ghosts_ * rows_variance) /
      total;
  const double threshold = std::max(usual_ghosts_ * kChangeFactor, usual_ghosts_ + kChangeLeast);
  const double above = (share - threshold) / std::max(deviation, 1e-9);
  change_sum_ = std::max(0.0, change_sum_ + std::min(above, kMostOfReview));
  const bool changed = change_sum_ > kChangeSum;
  if (changed) {
    change_sum_ = 0;
    // While the cache learns its share grows by itself.
    if (quiet_left_ == 0) {
      epoch_.fetch_add(1, std::memory_order_relaxed);
      forgotten_.fetch_add(1, std::memory_order_relaxed);
    }
    quiet_left_ = quiet_periods_;
  } else if (quiet_left_ > 0) {
    --quiet_left_;
  }
  usual_ghosts_ += (share - usual_ghosts_) * kUsualWeight;
}

// Looks from time to time whether ghosts are met more often than usual.
void Hotness::Review() {
  if (MetSinceReview().Total() < period_) return;
  if (reviewing_.exchange(true, std::memory_order_acquire)) return;
  // Another thread may just have done it.
  if (const Known known = MetSinceReview(); known.Total() >= period_) {
    met_rows_.store(0, std::memory_order_relaxed);
    met_ghosts_.store(0, std::memory_order_relaxed);
    missed_.store(0, std::memory_order_relaxed);
    DetectShift(known);
  }
  reviewing_.store(false, std::memory_order_release);
}

}  // namespace engram::dram
