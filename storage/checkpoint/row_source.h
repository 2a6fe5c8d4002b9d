// RowSource: a trained checkpoint, seen as rows in id order.
//
// OpenCheckpoint reads the config and the safetensors headers of a directory, checks all that can
// be checked without reading rows (shards present, dtypes, shapes, offsets, row counts against the
// config), and picks the family's adapter. ReadRows then gives finished rows, as they are served.
#ifndef ENGRAM_STORAGE_CHECKPOINT_ROW_SOURCE_H_
#define ENGRAM_STORAGE_CHECKPOINT_ROW_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/checkpoint/row_stream.h"
#include "storage/table/ids.h"
#include "storage/table/spec.h"
#include "storage/table/token_map.h"

namespace engram {

class RowSource {
 public:
  virtual ~RowSource() = default;

  // Layers, rows, row size, columns, family, checkpoint_digest. Name and version are left empty:
  // they are the operator's.
  virtual const TableSpec& spec() const = 0;

  // The token map of the checkpoint's tokenizer.json, for a table whose tokens are compressed; null
  // if it has no such file, or needs none. Its size and digest are in the spec.
  virtual const TokenMap* token_map() const = 0;

  // Fills `out` with rows first … first + count − 1 of a layer, packed. Thread-safe; blocks on
  // reads, bypasses the page cache where direct I/O is available.
  // NotFound: no such layer. OutOfRange: rows past the end. InvalidArgument: out is not
  // count × row_bytes. DataLoss, naming file and tensor: the file is shorter than its header
  // says. Unavailable: the read failed (errno in the text).
  virtual absl::Status ReadRows(LayerId layer, uint64_t first, uint64_t count,
                                absl::Span<std::byte> out) const = 0;

  // Rows first … first + count − 1 of a layer, to be taken in order; what is slow to come is read
  // ahead, through io_uring unless that is false or refused. The source must outlive the stream.
  // Thread-safe. NotFound, OutOfRange: as ReadRows.
  // Unless overridden, each Read of the stream is a ReadRows.
  virtual absl::StatusOr<std::unique_ptr<RowStream>> Stream(LayerId layer, uint64_t first,
                                                            uint64_t count, bool io_uring) const;

  // How a stream comes by its rows, for the log: "io_uring, direct I/O", or what it falls back to
  // and why. Empty if there is nothing to say.
  virtual std::string HowRead(bool /*io_uring*/) const { return {}; }

  // Whether all that stands behind the rows is as it was when the source was opened.
  // FailedPrecondition, naming the file that was written to meanwhile; Unavailable.
  virtual absl::Status CheckUnchanged() const { return absl::OkStatus(); }
};

struct CheckpointOptions {
  std::string directory;
  std::string model = "auto";        // or a family's name, as in `engramctl load --model`
  std::vector<std::string> tensors;  // for family `generic`
  bool allow_unverified = false;     // take what no test vector has proved (family.h)
};

// NotFound: the directory, config.json or a shard is missing. InvalidArgument: the config or a
// tensor is not what the family needs. DataLoss: a damaged file. Each names file and tensor.
absl::StatusOr<std::unique_ptr<RowSource>> OpenCheckpoint(const CheckpointOptions& options);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_ROW_SOURCE_H_
