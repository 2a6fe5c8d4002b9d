// ReadAhead: one thread's reads of FileReaders, several of them under way while it works on what
// has come already.
//
//   ReadAhead ahead(/*io_uring=*/true);
//   ReadAhead::Range range;
//   ahead.Start(file, offset, length, range);   // hands it to the drive
//   …                                           // work on something else
//   auto bytes = ahead.Finish(range);           // waits for it
//
// A range is read directly, in pieces of 1 MiB that are in flight together, through an IoRing.
// Where io_uring or direct I/O is refused, breaks, or answers a read with less than there should
// be, Finish reads what is missing as FileReader::Read does, whose errors and checks are the same;
// that io_uring is refused or broke is logged once. One thread at a time.
#ifndef ENGRAM_STORAGE_CHECKPOINT_READ_AHEAD_H_
#define ENGRAM_STORAGE_CHECKPOINT_READ_AHEAD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/base/io_ring.h"
#include "storage/checkpoint/file_reader.h"

namespace engram {

class ReadAhead {
 public:
  static constexpr uint32_t kPieceBytes = uint32_t{1} << 20;

  // One read and the memory of its bytes, which is kept for the next. Until Finish it must stay
  // where it is, and its ReadAhead must go before it.
  class Range {
   public:
    Range() = default;
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;

   private:
    friend class ReadAhead;
    const FileReader* file_ = nullptr;
    uint64_t offset_ = 0;
    uint64_t length_ = 0;
    AlignedBuffer buffer_;
    bool by_ring_ = false;  // false: Finish does all of it
    size_t open_ = 0;       // pieces under way
    bool gaps_ = false;     // a piece did not come whole, and not for an error of the drive
    absl::Status status_;   // the first error
  };

  // `io_uring` false: every read happens in Finish.
  explicit ReadAhead(bool io_uring);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Requires that `range` is not under way and that `file` outlives it.
  void Start(const FileReader& file, uint64_t offset, uint64_t length, Range& range);

  // The bytes; they lie in `range` and live until its next Start. Errors are FileReader::Read's.
  absl::StatusOr<absl::Span<const std::byte>> Finish(Range& range);

 private:
  struct Piece {
    Range* range = nullptr;
    uint64_t begin = 0;  // in the file
    std::byte* data = nullptr;
    uint32_t bytes = 0;   // asked for, whole blocks
    uint32_t needed = 0;  // of them: the last block of a file may be short
    uint32_t done = 0;
    int repeats = 0;
  };

  bool Usable() const { return ring_.has_value() && ring_->status().ok(); }
  void Queue(uint64_t slot);
  void Wait(unsigned count);
  void Answer(uint64_t slot, int32_t result);

  std::optional<IoRing> ring_;
  std::vector<Piece> pieces_;   // by the tag of the request
  std::vector<uint64_t> free_;  // of pieces_
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_READ_AHEAD_H_
