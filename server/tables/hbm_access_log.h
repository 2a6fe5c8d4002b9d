// HbmAccessLog: sampled accesses to one layer, and what its HBM tier holds.
//
// HBM is not on the daemon's batch path: workers gather from it on the GPU (client/gpu_reader.h)
// and report how many rows they read and, as a sample, which. A look-up of the daemon answers into
// host memory, to which DRAM is nearer. The HBM cache reads the log to decide which rows to keep;
// `stats` reads there what the tier holds.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_TABLES_HBM_ACCESS_LOG_H_
#define ENGRAM_SERVER_TABLES_HBM_ACCESS_LOG_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "storage/base/mutex.h"
#include "storage/table/tier.h"

namespace engram {

class HbmAccessLog {
 public:
  explicit HbmAccessLog(std::string note);

  TierUsage Usage() const;
  void SetUsage(TierUsage usage);

  // Whether the HBM cache reads the log: else nothing is noted.
  bool sampled() const { return sampled_.load(std::memory_order_relaxed); }
  void SetSampled(bool sampled) { sampled_.store(sampled, std::memory_order_relaxed); }
  // Notes these accesses. What comes while kMostSamples wait is dropped.
  void Note(absl::Span<const RowId> ids);
  // Notes one id in dram::kSampleEvery, the next time others.
  void NoteSome(absl::Span<const RowId> ids);
  // What was noted since the last time.
  std::vector<RowId> TakeSamples();

  static constexpr size_t kMostSamples = 1u << 17;

 private:
  mutable Mutex mutex_;  // held to copy a few words
  TierUsage usage_ ABSL_GUARDED_BY(mutex_);
  std::vector<RowId> samples_ ABSL_GUARDED_BY(mutex_);
  // Relaxed, both: only what is sampled depends on them.
  std::atomic<bool> sampled_{false};
  std::atomic<uint32_t> phase_{0};
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_HBM_ACCESS_LOG_H_
