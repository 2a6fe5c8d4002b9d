#include "storage/table/token_sequences.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace engram {

absl::StatusOr<uint64_t> TokenSequences::CountPositions() const {
  const auto bad = [](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: ", what...));
  };
  if (count() > ids + kMaxEmptySequences) {
    return bad(count(), " sequences of ", ids, " ids: leave out those that have none");
  }
  if (!lookbacks.empty() && lookbacks.size() != count()) {
    return bad(lookbacks.size(), " lookbacks for ", count(),
               " sequences: give one for each, or none");
  }
  uint64_t end = 0;
  uint64_t context = 0;
  for (size_t i = 0; i < count(); ++i) {
    if (lookback(i) > length(i)) {
      return bad("sequence ", i, " has a lookback of ", lookback(i), " in ", length(i), " ids");
    }
    end += length(i);
    context += lookback(i);
  }
  if (end != ids) return bad("the lengths add up to ", end, ", but there are ", ids, " token ids");
  return end - context;
}

}  // namespace engram
