// Rows in order, read ahead: what a load takes from a RowSource.
//
// RowStream is the face; ShardStream is that of rows in tensors. While one block of rows is taken
// out, the next ones are under way (ReadAhead), so that reading, working and writing overlap.
//
// Memory of one ShardStream: kBlocks blocks of kBlockBytes, some 8.3 MiB whatever the size of the
// table; a row larger than a block counts as one.
#ifndef ENGRAM_STORAGE_CHECKPOINT_ROW_STREAM_H_
#define ENGRAM_STORAGE_CHECKPOINT_ROW_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "storage/checkpoint/read_ahead.h"
#include "storage/checkpoint/row_parts.h"

namespace engram {

// One thread at a time.
class RowStream {
 public:
  virtual ~RowStream() = default;

  // Fills `out` with rows first … first + count − 1, packed. Requires that `first` is the row
  // behind the last one taken, and that the stream goes on so far: InvalidArgument if not. Blocks.
  // Other errors are RowSource::ReadRows'; after one the stream is at its end.
  virtual absl::Status Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) = 0;
};

class ShardStream final : public RowStream {
 public:
  // With what the alignment adds at both ends, one huge page a block and part.
  static constexpr uint64_t kBlockBytes = (uint64_t{2} << 20) - (uint64_t{16} << 10);
  static constexpr size_t kBlocks = 4;

  // `count` rows of a shard that begin at its row `first`.
  struct Stretch {
    const RowParts* parts = nullptr;
    uint64_t first = 0;
    uint64_t count = 0;
  };

  // Row `first` of the layer is the first row of stretches[0]. The parts are borrowed.
  ShardStream(std::vector<Stretch> stretches, uint64_t first, bool io_uring);

  absl::Status Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) override;

 private:
  struct Block {
    Stretch rows;  // of the shard
    uint64_t taken = 0;
    std::deque<ReadAhead::Range> ranges;             // one a part; a deque never moves them
    std::vector<absl::Span<const std::byte>> bytes;  // of each part, once it is here
  };

  void StartMore();
  absl::Status Arrive(Block& block);

  std::vector<Stretch> stretches_;
  size_t stretch_ = 0;                         // the next block begins here …
  uint64_t started_ = 0;                       // … at this row of it
  uint64_t next_;                              // the row that Read must ask for
  std::deque<std::unique_ptr<Block>> blocks_;  // under way or being taken, in order
  std::vector<std::unique_ptr<Block>> idle_;
  ReadAhead ahead_;  // last: goes first, before the memory that it reads into
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_ROW_STREAM_H_
