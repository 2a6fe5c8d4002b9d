#include "storage/checkpoint/row_parts.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// Rows read at once. Large enough that a drive reaches its sequential speed and that the far
// smaller region of scales is still read a quarter of a megabyte at a time.
constexpr uint64_t kBlockBytes = 8 * 1024 * 1024;

// Puts `count` pieces of kBytes side by side at `stride`. The fixed size lets the compiler turn
// the copy into a few vector moves.
template <size_t kBytes>
void ScatterFixed(const std::byte* from, std::byte* to, size_t stride, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    std::memcpy(to, from, kBytes);
    from += kBytes;
    to += stride;
  }
}

void Scatter(const std::byte* from, size_t bytes, std::byte* to, size_t stride, uint64_t count) {
  if (bytes == stride) {
    std::memcpy(to, from, bytes * count);
  } else if (bytes == 256) {
    ScatterFixed<256>(from, to, stride, count);
  } else if (bytes == 8) {
    ScatterFixed<8>(from, to, stride, count);
  } else {
    for (uint64_t i = 0; i < count; ++i) {
      std::memcpy(to + i * stride, from + i * bytes, bytes);
    }
  }
}

}  // namespace

std::unique_ptr<ScratchPool::Scratch> ScratchPool::Take(size_t buffers) {
  std::unique_ptr<Scratch> scratch;
  {
    MutexLock lock(mutex_);
    if (!idle_.empty()) {
      scratch = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (scratch == nullptr) scratch = std::make_unique<Scratch>();
  if (scratch->size() < buffers) scratch->resize(buffers);
  return scratch;
}

void ScratchPool::Return(std::unique_ptr<Scratch> scratch) {
  MutexLock lock(mutex_);
  idle_.push_back(std::move(scratch));
}

RowParts::RowParts(std::vector<RowPart> parts, std::shared_ptr<ScratchPool> pool)
    : parts_(std::move(parts)), pool_(std::move(pool)) {
  for (const RowPart& part : parts_) row_bytes_ += part.bytes;
}

absl::Status RowParts::Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) const {
  const uint64_t block = std::max<uint64_t>(1, kBlockBytes / row_bytes_);
  std::unique_ptr<ScratchPool::Scratch> scratch = pool_->Take(parts_.size());
  absl::Status status;
  for (uint64_t done = 0; status.ok() && done < count; done += block) {
    status = ReadBlock(first + done, std::min(block, count - done), out.data() + done * row_bytes_,
                       *scratch);
  }
  pool_->Return(std::move(scratch));
  return status;
}

absl::Status RowParts::ReadBlock(uint64_t first, uint64_t count, std::byte* out,
                                 ScratchPool::Scratch& scratch) const {
  std::vector<absl::Span<const std::byte>> bytes;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const RowPart& part = parts_[i];
    const absl::StatusOr<absl::Span<const std::byte>> read =
        part.file->Read(part.offset + first * part.bytes, count * part.bytes, scratch[i]);
    if (!read.ok()) return Named(read.status(), i, first, count);
    bytes.push_back(*read);
  }
  Interleave(bytes, 0, count, out);
  return absl::OkStatus();
}

void RowParts::Interleave(absl::Span<const absl::Span<const std::byte>> bytes, uint64_t first,
                          uint64_t count, std::byte* out) const {
  for (size_t i = 0; i < parts_.size(); ++i) {
    const uint32_t width = parts_[i].bytes;
    Scatter(bytes[i].data() + first * width, width, out, row_bytes_, count);
    out += width;
  }
}

absl::Status RowParts::Named(const absl::Status& status, size_t part, uint64_t first,
                             uint64_t count) const {
  return {status.code(), absl::StrCat(status.message(), " (rows ", first, " to ", first + count - 1,
                                      " of tensor '", parts_[part].tensor, "')")};
}

}  // namespace engram
