#include "storage/checkpoint/table_source.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/io_ring.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// Of a source that cannot read ahead.
class PlainStream final : public RowStream {
 public:
  PlainStream(const RowSource& source, LayerId layer, uint64_t first, uint64_t count)
      : source_(source), layer_(layer), next_(first), end_(first + count) {}

  absl::Status Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) override {
    if (first != next_ || count > end_ - next_) {
      return absl::InvalidArgumentError(absl::StrCat(count, " rows from row ", first,
                                                     " are asked for, but rows ", next_, " to ",
                                                     end_, " come next"));
    }
    next_ += count;
    return source_.ReadRows(layer_, first, count, out);
  }

 private:
  const RowSource& source_;
  const LayerId layer_;
  uint64_t next_;
  const uint64_t end_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowStream>> RowSource::Stream(LayerId layer, uint64_t first,
                                                             uint64_t count, bool) const {
  return std::make_unique<PlainStream>(*this, layer, first, count);
}

absl::StatusOr<const LayerSpec*> TableSource::FindRows(LayerId layer, uint64_t first,
                                                       uint64_t count) const {
  const LayerSpec* const found = spec_.FindLayer(layer);
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat("the checkpoint has no layer ", Raw(layer)));
  }
  if (count > found->rows || first > found->rows - count) {
    return absl::OutOfRangeError(absl::StrCat(count, " rows from row ", first,
                                              " are past the end of layer ", Raw(layer),
                                              ", which has ", found->rows));
  }
  return found;
}

absl::Status TableSource::ReadRows(LayerId layer, uint64_t first, uint64_t count,
                                   absl::Span<std::byte> out) const {
  ENGRAM_ASSIGN_OR_RETURN(const LayerSpec* const found, FindRows(layer, first, count));
  if (out.size() != count * found->row_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the output is ", out.size(), " bytes; ", count,
                                                   " rows take ", count * found->row_bytes));
  }
  return layers_.at(layer)->Read(first, count, out);
}

absl::StatusOr<std::unique_ptr<RowStream>> TableSource::Stream(LayerId layer, uint64_t first,
                                                               uint64_t count,
                                                               bool io_uring) const {
  ENGRAM_RETURN_IF_ERROR(FindRows(layer, first, count).status());
  return layers_.at(layer)->Stream(first, count, io_uring);
}

std::string TableSource::HowRead(bool io_uring) const {
  for (const auto& [name, shard] : directory_->shards()) {
    if (!shard->file->direct()) {
      return absl::StrCat("pread, buffered I/O (O_DIRECT refused for ", shard->file->path(), ")");
    }
  }
  if (!io_uring) return "pread (io_uring turned off), direct I/O";
  const absl::Status probe = ProbeIoUring();
  if (probe.ok()) return "io_uring, direct I/O";
  return absl::StrCat("pread (io_uring refused: ", probe.message(), "), direct I/O");
}

absl::Status TableSource::CheckUnchanged() const {
  for (const auto& [name, shard] : directory_->shards()) {
    ENGRAM_RETURN_IF_ERROR(shard->file->CheckUnchanged());
  }
  return absl::OkStatus();
}

}  // namespace engram
