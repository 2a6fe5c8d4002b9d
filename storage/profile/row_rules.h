// RowRules: what the rows of one layer must keep to (FORMAT.md), as far as that can be checked
// without remembering them. For the reader and the writer of HOT files. One thread at a time.
#ifndef ENGRAM_STORAGE_PROFILE_ROW_RULES_H_
#define ENGRAM_STORAGE_PROFILE_ROW_RULES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "storage/profile/hot_file.h"
#include "storage/profile/row_profile.h"

namespace engram {

class RowRules {
 public:
  // Requires an outline that profile_format::CheckLayerOutline accepts.
  RowRules(HotKind kind, const LayerProfile& outline);

  // The layer's next rows. InvalidArgument, naming layer and value, for rows that it does not have;
  // of a profile also for counts other than its classes say, and ids of one count that do not
  // ascend; of a live file for counts outside of 1 to kMaxLiveCount.
  absl::Status Check(const HotRun& run);

 private:
  absl::Status CheckCounted(const HotRun& run);
  absl::Status Bad(absl::string_view what, uint64_t value) const;

  const HotKind kind_;
  const LayerId layer_;
  const uint64_t rows_;
  const std::vector<CountClass> classes_;  // of a profile
  size_t at_ = 0;
  uint64_t in_class_ = 0;  // rows so far
  RowId before_{};
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_ROW_RULES_H_
