// Whether a cache's sets are better ruled by frequency or by recency: measured while it serves.
//
// Rows that are drawn by Zipf's law, each access for itself, are best kept by how often they were
// asked for. But a document repeats its own n-grams soon and is then over, so that of real text
// what was asked for last serves more (tests/bench/RESULTS.md). No load is known to be the one or
// the other, so some sets are always ruled by frequency and as many always by recency, and the
// others follow those that miss less (set dueling: Qureshi, Jaleel, Patt, Steely and Emer,
// "Adaptive insertion policies for high performance caching", ISCA 2007).
//
// Threads: any number may call anything at once. Counts are relaxed atomics.
#ifndef ENGRAM_STORAGE_DRAM_POLICY_DUEL_H_
#define ENGRAM_STORAGE_DRAM_POLICY_DUEL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace engram::dram {

enum class Policy { kFrequency, kRecency };

class PolicyDuel {
 public:
  // For a cache of `sets` sets. One with too few for a fair sample is ruled by frequency.
  explicit PolicyDuel(uint32_t sets);

  // What rules the set of this number (any numbering in which neighbours are distinct modulo 64).
  Policy PolicyOf(size_t set) const;
  // An access found its row missing from this set.
  void Missed(size_t set);
  // What rules the sets that follow.
  Policy winner() const { return winner_.load(std::memory_order_relaxed); }

 private:
  void Review();

  const bool fights_;
  const uint64_t period_;
  std::atomic<Policy> winner_{Policy::kFrequency};
  std::atomic<uint64_t> frequency_misses_{0};  // since the last review
  std::atomic<uint64_t> recency_misses_{0};
  // Try-lock (acquire; cleared by release) of the two below.
  std::atomic<bool> reviewing_{false};
  double frequency_sum_ = 0;  // of older misses less and less
  double recency_sum_ = 0;
};

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_POLICY_DUEL_H_
