// What a trace is replayed against: caches as policies, without rows. One face for all of them.
//
// One thread at a time.
#ifndef ENGRAM_TESTS_BENCH_CACHE_MODELS_H_
#define ENGRAM_TESTS_BENCH_CACHE_MODELS_H_

#include <cstdint>
#include <memory>

#include "storage/dram/hotness.h"

namespace engram::bench {

class CacheModel {
 public:
  virtual ~CacheModel() = default;
  // Whether the row is held; counts as an access.
  virtual bool Lookup(uint32_t row_id) = 0;
  // The row that Lookup has just missed.
  virtual void Offer(uint32_t row_id) = 0;
  // dram::Hotness::times_forgotten, where there is one.
  virtual uint64_t TimesForgotten() const { return 0; }

  bool Access(uint32_t row_id) {
    if (Lookup(row_id)) return true;
    Offer(row_id);
    return false;
  }
};

// The DRAM tier: `sets` sets of dram::kWays ways and its own decisions (storage/dram/hotness.h). Of
// the hits, one in `sampled` is told to the sketch, at random, as clients do; misses all are.
std::unique_ptr<CacheModel> MakeDramModel(uint32_t sets, dram::Admission admission,
                                          uint32_t sampled);

// Least recently used of `rows` rows, wherever they are. Ids are below `ids`.
std::unique_ptr<CacheModel> MakeLruModel(uint32_t rows, uint32_t ids);
// The same, each of `sets` sets by itself.
std::unique_ptr<CacheModel> MakeSetLruModel(uint32_t sets);

// Sets that hold what was asked for most often, by exact counts of all rows from the start: no
// policy that learns from the same trace can know more of a law that stands still.
std::unique_ptr<CacheModel> MakePerfectCountsModel(uint32_t sets, uint32_t ids);

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_CACHE_MODELS_H_
