// RowShards: the rows of one layer, where they lie in one tensor after the other.
//
// A large table is often cut into shards of consecutive rows, or is one tensor a column; the
// layer's row r then is row r − (rows before) of the shard that it falls into. Each shard's rows
// may themselves be put together from several tensors (row_parts.h).
//
// Read is safe from any number of threads. The files are borrowed and must outlive this. All shards
// share one pool of scratch memory, so that it does not grow with their number.
#ifndef ENGRAM_STORAGE_CHECKPOINT_ROW_SHARDS_H_
#define ENGRAM_STORAGE_CHECKPOINT_ROW_SHARDS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "storage/checkpoint/row_parts.h"
#include "storage/checkpoint/row_stream.h"

namespace engram {

struct RowShard {
  uint64_t rows = 0;  // that are served; the tensors may have more behind them
  std::vector<RowPart> parts;
};

class RowShards {
 public:
  // Requires at least one shard, and rows of one size in all.
  explicit RowShards(std::vector<RowShard> shards);

  uint32_t row_bytes() const { return shards_.front()->row_bytes(); }
  uint64_t rows() const { return ends_.back(); }

  // Fills `out` with rows first … first + count − 1. Requires that they exist and that `out` is
  // count × row_bytes() long. Errors are RowParts::Read's.
  absl::Status Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) const;

  // The same rows in order, read ahead. Requires that they exist, and outlives the stream.
  std::unique_ptr<RowStream> Stream(uint64_t first, uint64_t count, bool io_uring) const;

 private:
  std::vector<std::unique_ptr<const RowParts>> shards_;
  std::vector<uint64_t> ends_;  // the layer's row behind each shard's last
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_ROW_SHARDS_H_
