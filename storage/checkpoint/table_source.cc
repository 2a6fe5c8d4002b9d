#include "storage/checkpoint/table_source.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace engram {

absl::Status TableSource::ReadRows(LayerId layer, uint64_t first, uint64_t count,
                                   absl::Span<std::byte> out) const {
  const LayerSpec* const found = spec_.FindLayer(layer);
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat("the checkpoint has no layer ", Raw(layer)));
  }
  if (count > found->rows || first > found->rows - count) {
    return absl::OutOfRangeError(absl::StrCat(count, " rows from row ", first,
                                              " are past the end of layer ", Raw(layer),
                                              ", which has ", found->rows));
  }
  if (out.size() != count * found->row_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the output is ", out.size(), " bytes; ", count,
                                                   " rows take ", count * found->row_bytes));
  }
  return layers_.at(layer)->Read(first, count, out);
}

}  // namespace engram
