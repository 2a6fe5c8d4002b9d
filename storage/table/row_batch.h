// RowBatch: one layer's share of a request, on its way hbm → dram → nvme.
//
// It borrows the ids and the output; both must outlive it. One thread at a time owns a batch; a
// tier may split the work inside Read as long as it is done when Read returns.
#ifndef ENGRAM_STORAGE_TABLE_ROW_BATCH_H_
#define ENGRAM_STORAGE_TABLE_ROW_BATCH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "storage/table/ids.h"

namespace engram {

enum class TierKind : uint8_t { kHbm = 0, kDram = 1, kNvme = 2 };
inline constexpr size_t kTierCount = 3;
inline constexpr std::array<TierKind, kTierCount> kAllTiers = {TierKind::kHbm, TierKind::kDram,
                                                               TierKind::kNvme};
const char* TierName(TierKind kind);  // "hbm", "dram", "nvme"

// In RowBatch's tier_of: no tier served the row (a zero row, or a failed one).
inline constexpr uint8_t kNoTier = 0xFF;

struct RowFailure {
  uint32_t position = 0;  // index into ids
  absl::Status status;
};

class RowBatch {
 public:
  // `out` holds ids.size() rows of row_bytes, packed in the order of ids. `tier_of`, when not
  // empty, holds ids.size() entries and receives the tier of each row.
  // Zero rows are filled here and never reach a tier; all other positions start out missing.
  RowBatch(absl::Span<const RowId> ids, uint32_t row_bytes, absl::Span<std::byte> out,
           absl::Span<uint8_t> tier_of = {});
  // Some of another batch's missing positions, for a thread of its own: same ids, output and tiers.
  // The other batch outlives it and has no use for these positions until Absorb.
  RowBatch(const RowBatch& whole, std::vector<uint32_t> positions);
  RowBatch(RowBatch&&) = default;
  RowBatch& operator=(RowBatch&&) = default;

  absl::Span<const RowId> ids() const { return ids_; }
  uint32_t row_bytes() const { return row_bytes_; }
  std::byte* row(uint32_t position) const {
    return out_.data() + static_cast<size_t>(position) * row_bytes_;
  }

  // Positions (indexes into ids) that no tier has filled yet. A tier fills those that it holds and
  // leaves the others here, in the order in which they were.
  std::vector<uint32_t>& missing() { return missing_; }
  const std::vector<uint32_t>& missing() const { return missing_; }

  // Takes every position whose id stands at an earlier missing one out of missing(), so that no
  // tier reads a row twice. FillRepeats then has to be called once nothing is missing. For batches
  // whose ids were not chosen one by one.
  void SetRepeatsAside();
  // Fills those positions from the rows, tiers and failures of the earlier ones, and counts them as
  // served or failed alike. Does nothing the second time.
  void FillRepeats();

  // Positions set aside and not filled yet.
  size_t repeats() const { return repeats_.size(); }

  // Gives up on a position: zeroes its row and notes why. The caller takes it out of missing().
  void Fail(uint32_t position, const absl::Status& status);
  const std::vector<RowFailure>& failures() const { return failures_; }

  // Adds what became of a part, which was made from this batch and has nothing missing any more or
  // leaves it so: rows served and failures.
  void Absorb(const RowBatch& part);

  // Called by the tier stack after each tier, with the positions that were missing before it.
  void CountServed(TierKind kind, absl::Span<const uint32_t> missing_before,
                   size_t failures_before);
  uint64_t served(TierKind kind) const { return served_[static_cast<size_t>(kind)]; }
  bool wants_tiers() const { return !tier_of_.empty(); }

 private:
  absl::Span<const RowId> ids_;
  uint32_t row_bytes_;
  absl::Span<std::byte> out_;
  absl::Span<uint8_t> tier_of_;
  std::vector<uint8_t> own_tiers_;  // tier_of_'s memory where only FillRepeats needs it
  struct Repeat {
    uint32_t position = 0;
    uint32_t first = 0;  // the earlier position of the same id
  };
  std::vector<Repeat> repeats_;
  std::vector<uint32_t> missing_;
  std::vector<RowFailure> failures_;
  std::array<uint64_t, kTierCount> served_{};
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_ROW_BATCH_H_
