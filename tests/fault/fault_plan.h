// FaultPlan: which reads go wrong, and how, by a seed.
//
// What befalls a read depends on the seed, the file's name, the offset and how often that place has
// been read before, and not on which thread comes first: so a run repeats itself.
#ifndef ENGRAM_TESTS_FAULT_FAULT_PLAN_H_
#define ENGRAM_TESTS_FAULT_FAULT_PLAN_H_

#include <rocksdb/file_system.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "storage/base/mutex.h"

namespace engram {

enum class FaultKind { kNone, kError, kShortRead, kBitFlip };

// Thread-safe.
class FaultPlan {
 public:
  // Shares of all reads of tables; the rest go well.
  struct Rates {
    double error = 0;  // EIO
    double short_read = 0;
    double bit_flip = 0;
  };

  FaultPlan(uint64_t seed, Rates rates) : seed_(seed), rates_(rates) {}

  // Does to a finished read what is planned for it; reads of other files are left alone.
  void Spoil(const std::string& file, rocksdb::FSReadRequest& read);

  // How many times a kind has been done.
  uint64_t done(FaultKind kind) const;

 private:
  FaultKind Choose(uint64_t mixed) const;

  const uint64_t seed_;
  const Rates rates_;
  mutable Mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, uint64_t> reads_ ABSL_GUARDED_BY(mutex_);
  std::array<uint64_t, 4> done_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace engram

#endif  // ENGRAM_TESTS_FAULT_FAULT_PLAN_H_
