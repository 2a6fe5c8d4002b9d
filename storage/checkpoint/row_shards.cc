#include "storage/checkpoint/row_shards.h"

#include <algorithm>
#include <utility>

#include "storage/base/status_macros.h"

namespace engram {

RowShards::RowShards(std::vector<RowShard> shards) {
  const auto pool = std::make_shared<ScratchPool>();
  uint64_t rows = 0;
  for (RowShard& shard : shards) {
    shards_.push_back(std::make_unique<const RowParts>(std::move(shard.parts), pool));
    ends_.push_back(rows += shard.rows);
  }
}

absl::Status RowShards::Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) const {
  // The first shard that ends behind `first`; a shard without rows is never it.
  size_t shard = std::upper_bound(ends_.begin(), ends_.end(), first) - ends_.begin();
  for (; count > 0; ++shard) {
    const uint64_t begin = shard == 0 ? 0 : ends_[shard - 1];
    const uint64_t here = std::min(count, ends_[shard] - first);
    const size_t bytes = here * row_bytes();
    ENGRAM_RETURN_IF_ERROR(shards_[shard]->Read(first - begin, here, out.first(bytes)));
    out.remove_prefix(bytes);
    first += here;
    count -= here;
  }
  return absl::OkStatus();
}

std::unique_ptr<RowStream> RowShards::Stream(uint64_t first, uint64_t count, bool io_uring) const {
  const uint64_t start = first;
  std::vector<ShardStream::Stretch> stretches;
  size_t shard = std::upper_bound(ends_.begin(), ends_.end(), first) - ends_.begin();
  for (; count > 0; ++shard) {
    const uint64_t begin = shard == 0 ? 0 : ends_[shard - 1];
    const uint64_t here = std::min(count, ends_[shard] - first);
    stretches.push_back({shards_[shard].get(), first - begin, here});
    first += here;
    count -= here;
  }
  return std::make_unique<ShardStream>(std::move(stretches), start, io_uring);
}

}  // namespace engram
