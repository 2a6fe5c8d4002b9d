// Tier: the one face of HBM, DRAM and NVMe for one layer of one table version.
//
// A batch passes the tiers in a straight line; each fills what it holds and passes the rest on.
// Nothing goes back up. Implementations are safe to call from any number of threads at once.
#ifndef ENGRAM_STORAGE_TABLE_TIER_H_
#define ENGRAM_STORAGE_TABLE_TIER_H_

#include <cstdint>
#include <string>

#include "storage/table/row_batch.h"

namespace engram {

// What a tier holds right now.
struct TierUsage {
  bool on = false;
  std::string note;             // why it is off, or how it came out ("transparent huge pages")
  uint64_t rows = 0;            // rows held
  uint64_t bytes = 0;           // bytes of those rows
  uint64_t capacity_bytes = 0;  // memory or disk given to the tier, index included
};

class Tier {
 public:
  virtual ~Tier() = default;

  virtual TierKind kind() const = 0;

  // Fills the missing rows that this tier holds and takes their positions out of
  // batch.missing(). A row that this tier holds but cannot give is failed (batch.Fail) with
  // DataLoss or Unavailable and taken out too; its neighbours are served. Every id in the batch
  // is in range: the caller has checked. NVMe blocks on the drive; the others never wait
  // for it.
  virtual void Read(RowBatch& batch) = 0;

  virtual TierUsage Usage() const = 0;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_TIER_H_
