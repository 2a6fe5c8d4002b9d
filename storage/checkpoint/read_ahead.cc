#include "storage/checkpoint/read_ahead.h"

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "storage/base/log.h"

namespace engram {
namespace {

// Pieces in flight; a table's load keeps some eight of them there, see row_stream.cc.
constexpr unsigned kDepth = 32;
constexpr uint64_t kBlock = AlignedBuffer::kAlignment;
// How often the kernel may say "not now" to one piece before it is read in the other way.
constexpr int kMaxRepeats = 100;

uint64_t AlignDown(uint64_t value) { return value / kBlock * kBlock; }
uint64_t AlignUp(uint64_t value) { return AlignDown(value + kBlock - 1); }

void LogOnce(const absl::Status& status) {
  // Relaxed: it guards nothing; the exchange alone decides who logs.
  static std::atomic<bool> logged{false};
  if (status.ok() || logged.exchange(true, std::memory_order_relaxed)) return;
  ENGRAM_LOG(kWarning) << "checkpoints are read with pread, one read after the other: io_uring: "
                       << status.message();
}

}  // namespace

ReadAhead::ReadAhead(bool io_uring) {
  if (!io_uring) return;
  ring_.emplace(kDepth);
  LogOnce(ring_->status());
  pieces_.resize(kDepth);
  for (uint64_t slot = 0; slot < kDepth; ++slot) free_.push_back(slot);
}

ReadAhead::~ReadAhead() {
  // Ranges that nobody asked for any more: the kernel still writes into their memory.
  while (Usable() && ring_->in_flight() > 0) Wait(ring_->in_flight());
}

void ReadAhead::Start(const FileReader& file, uint64_t offset, uint64_t length, Range& range) {
  range.file_ = &file;
  range.offset_ = offset;
  range.length_ = length;
  range.gaps_ = false;
  range.status_ = absl::OkStatus();
  const bool inside = length <= file.bytes() && offset <= file.bytes() - length;
  range.by_ring_ = inside && Usable() && file.ring_fd() >= 0;
  if (!range.by_ring_) return;
  const uint64_t begin = AlignDown(offset);
  const uint64_t end = offset + length;
  std::byte* const data = range.buffer_.Reserve(AlignUp(end) - begin);
  for (uint64_t at = begin; at < end; at += kPieceBytes) {
    while (free_.empty() && Usable()) Wait(1);
    if (!Usable()) {
      range.gaps_ = true;
      break;
    }
    const uint64_t slot = free_.back();
    free_.pop_back();
    const uint64_t needed = std::min<uint64_t>(kPieceBytes, end - at);
    pieces_[slot] = {&range,
                     at,
                     data + (at - begin),
                     static_cast<uint32_t>(AlignUp(needed)),
                     static_cast<uint32_t>(needed),
                     0,
                     0};
    ++range.open_;
    Queue(slot);
  }
  if (Usable()) Wait(0);  // hands them to the kernel
}

void ReadAhead::Queue(uint64_t slot) {
  const Piece& piece = pieces_[slot];
  ring_->Read(piece.range->file_->ring_fd(), piece.data + piece.done, piece.bytes - piece.done,
              piece.begin + piece.done, slot);
}

void ReadAhead::Wait(unsigned count) {
  LogOnce(ring_->Wait(count, [this](uint64_t slot, int32_t result) { Answer(slot, result); }));
}

void ReadAhead::Answer(uint64_t slot, int32_t result) {
  Piece& piece = pieces_[slot];
  Range& range = *piece.range;
  const uint64_t at = piece.begin + piece.done;
  result = range.file_->RingResult(
      at, absl::MakeSpan(piece.data + piece.done, piece.bytes - piece.done), result);
  if (result > 0) piece.done += static_cast<uint32_t>(result);
  const bool whole = piece.done >= piece.needed;
  const bool again = result > 0 ? piece.done % kBlock == 0 : result == -EINTR || result == -EAGAIN;
  if (!whole && again && Usable() && ++piece.repeats < kMaxRepeats) {
    Queue(slot);
    return;
  }
  if (!whole) {
    // The end of the file, a refusal of direct reads, or a ring that broke: FileReader settles it.
    const bool settle = result >= 0 || again || !Usable() || FileReader::RefusesDirect(-result);
    range.gaps_ = range.gaps_ || settle;
    if (!settle && range.status_.ok()) range.status_ = range.file_->Failed(-result, at);
  }
  --range.open_;
  free_.push_back(slot);
}

absl::StatusOr<absl::Span<const std::byte>> ReadAhead::Finish(Range& range) {
  while (range.open_ > 0) Wait(1);
  if (!range.status_.ok()) return range.status_;
  if (!range.by_ring_ || range.gaps_) {
    return range.file_->Read(range.offset_, range.length_, range.buffer_);
  }
  const uint64_t skip = range.offset_ - AlignDown(range.offset_);
  return absl::MakeConstSpan(range.buffer_.Reserve(0) + skip, range.length_);
}

}  // namespace engram
