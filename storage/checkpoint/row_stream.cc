#include "storage/checkpoint/row_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {

ShardStream::ShardStream(std::vector<Stretch> stretches, uint64_t first, bool io_uring)
    : stretches_(std::move(stretches)), next_(first), ahead_(io_uring) {
  for (size_t i = 0; i < kBlocks; ++i) idle_.push_back(std::make_unique<Block>());
  StartMore();
}

void ShardStream::StartMore() {
  while (!idle_.empty() && stretch_ < stretches_.size()) {
    const Stretch& stretch = stretches_[stretch_];
    if (started_ == stretch.count) {
      ++stretch_;
      started_ = 0;
      continue;
    }
    const RowParts& parts = *stretch.parts;
    const uint64_t most = std::max<uint64_t>(1, kBlockBytes / parts.row_bytes());
    Block& block = *idle_.back();
    block.rows = {&parts, stretch.first + started_, std::min(most, stretch.count - started_)};
    block.taken = 0;
    block.bytes.clear();
    started_ += block.rows.count;
    while (block.ranges.size() < parts.parts().size()) block.ranges.emplace_back();
    for (size_t i = 0; i < parts.parts().size(); ++i) {
      const RowPart& part = parts.parts()[i];
      ahead_.Start(*part.file, part.offset + block.rows.first * part.bytes,
                   block.rows.count * part.bytes, block.ranges[i]);
    }
    blocks_.push_back(std::move(idle_.back()));
    idle_.pop_back();
  }
}

// Waits for the block's bytes.
absl::Status ShardStream::Arrive(Block& block) {
  const RowParts& parts = *block.rows.parts;
  for (size_t i = block.bytes.size(); i < parts.parts().size(); ++i) {
    const absl::StatusOr<absl::Span<const std::byte>> bytes = ahead_.Finish(block.ranges[i]);
    if (!bytes.ok()) return parts.Named(bytes.status(), i, block.rows.first, block.rows.count);
    block.bytes.push_back(*bytes);
  }
  return absl::OkStatus();
}

absl::Status ShardStream::Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) {
  if (first != next_) {
    return absl::InvalidArgumentError(
        absl::StrCat("row ", first, " is asked for, but row ", next_, " comes next"));
  }
  if (!stretches_.empty() && out.size() != count * stretches_[0].parts->row_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the output is ", out.size(), " bytes, for ", count, " rows"));
  }
  next_ += count;
  while (count > 0) {
    if (blocks_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the rows end ", count, " before row ", next_));
    }
    Block& block = *blocks_.front();
    ENGRAM_RETURN_IF_ERROR(Arrive(block));
    const RowParts& parts = *block.rows.parts;
    const uint64_t here = std::min(count, block.rows.count - block.taken);
    parts.Interleave(block.bytes, block.taken, here, out.data());
    out.remove_prefix(here * parts.row_bytes());
    block.taken += here;
    count -= here;
    if (block.taken < block.rows.count) continue;
    idle_.push_back(std::move(blocks_.front()));
    blocks_.pop_front();
    StartMore();
  }
  return absl::OkStatus();
}

}  // namespace engram
