// What a trace is replayed against: caches as policies, without rows (row_cache_model.h has the one
// with rows). One face for all of them.
//
// One thread at a time.
#ifndef ENGRAM_TESTS_BENCH_CACHE_MODELS_H_
#define ENGRAM_TESTS_BENCH_CACHE_MODELS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/dram/hotness.h"

namespace engram::bench {

class CacheModel {
 public:
  virtual ~CacheModel() = default;
  // Asks for these rows in order, as one look-up; those that are not held are offered. Returns how
  // many were held. DataLoss: a row came back that is not the one asked for.
  virtual absl::StatusOr<uint64_t> Access(absl::Span<const uint32_t> row_ids) = 0;
  // dram::Hotness::times_forgotten, where there is one.
  virtual uint64_t TimesForgotten() const { return 0; }
  // Whether recency rules it at the moment, of one that chooses (dram::PolicyDuel).
  virtual bool ByRecency() const { return false; }
};

// The decisions of the DRAM tier alone (storage/dram/hotness.h), `sets` sets of dram::kWays ways.
// Of the hits, one in `sampled` is told to the sketch, at random; misses all are.
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
