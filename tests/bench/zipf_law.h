// Zipf's law over a table: the row of rank k is asked for in proportion to k^-α. Draws rows by it,
// and says what the best static placement serves.
//
// A law never changes and may be shared by threads; a trace belongs to one thread.
#ifndef ENGRAM_TESTS_BENCH_ZIPF_LAW_H_
#define ENGRAM_TESTS_BENCH_ZIPF_LAW_H_

#include <cstdint>
#include <memory>
#include <vector>

namespace engram::bench {

// splitmix64 (Vigna): small, fast, good enough for traces.
class TraceRandom {
 public:
  explicit TraceRandom(uint64_t seed) : state_(seed) {}
  uint64_t operator()();
  double Unit() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }  // 0 ≤ u < 1

 private:
  uint64_t state_;
};

// Ranks by rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate
// variates from monotone discrete distributions", ACM TOMACS 6(3), 1996. No tables, exact.
class ZipfRanks {
 public:
  // Requires count ≥ 1, alpha > 0.
  ZipfRanks(uint64_t count, double alpha);
  uint64_t operator()(TraceRandom& random) const;  // 1 … count

 private:
  double H(double x) const;
  double Inverse(double x) const;
  double Density(double x) const;

  uint64_t count_;
  double alpha_;
  double h_first_;
  double h_last_;
  double squeeze_;
};

// Which row has which rank: all orders alike, so that popularity has nothing to do with ids.
// `ranked[k - 1]` is the row of rank k.
using RankedRows = std::vector<uint32_t>;
RankedRows ShuffleRows(uint32_t rows, uint64_t seed);
// The same rows, of which a random `share` have changed ranks among themselves.
RankedRows MoveRows(RankedRows ranked, double share, uint64_t seed);

class ZipfLaw {
 public:
  ZipfLaw(uint32_t rows, double alpha);
  double alpha() const { return alpha_; }
  uint32_t rows() const { return rows_; }
  const ZipfRanks& ranks() const { return ranks_; }

  // The share of accesses that the `held` most popular rows serve.
  double StaticHitRatio(uint32_t held) const;
  // The same when each of `sets` sets (chosen by hash, as the cache does) holds its own most
  // popular rows.
  double StaticHitRatioInSets(uint32_t sets, const RankedRows& ranked) const;

 private:
  double Total(uint32_t ranks) const;

  uint32_t rows_;
  double alpha_;
  ZipfRanks ranks_;
  double total_;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_ZIPF_LAW_H_
