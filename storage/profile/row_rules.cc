#include "storage/profile/row_rules.h"

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {

RowRules::RowRules(HotKind kind, const LayerProfile& outline)
    : kind_(kind), layer_(outline.id), rows_(outline.rows), classes_(outline.Classes()) {}

absl::Status RowRules::Bad(absl::string_view what, uint64_t value) const {
  return absl::InvalidArgumentError(absl::StrCat("layer ", Raw(layer_), " of the ",
                                                 HotKindName(kind_), " file: ", what, " ", value));
}

absl::Status RowRules::Check(const HotRun& run) {
  for (const RowId id : run.ids) {
    if (Raw(id) >= rows_) return Bad("it has no row", Raw(id));
  }
  if (kind_ == HotKind::kProfile) return CheckCounted(run);
  if (run.count == 0 || run.count > kMaxLiveCount) return Bad("impossible count", run.count);
  return absl::OkStatus();
}

absl::Status RowRules::CheckCounted(const HotRun& run) {
  if (at_ < classes_.size() && in_class_ == classes_[at_].rows) {
    ++at_;
    in_class_ = 0;
  }
  if (at_ == classes_.size()) return Bad("rows that nobody asked for, with the count", run.count);
  if (run.count != classes_[at_].count) {
    return Bad("the head's count is not the class's:", run.count);
  }
  if (run.ids.size() > classes_[at_].rows - in_class_) {
    return Bad("more rows than its class has of the count", run.count);
  }
  for (const RowId id : run.ids) {
    if (in_class_ > 0 && id <= before_) {
      return Bad("rows of one count do not ascend at row", Raw(id));
    }
    ++in_class_;
    before_ = id;
  }
  return absl::OkStatus();
}

}  // namespace engram
