// Reading a chunk of a published version back: every row from the drive, past all tiers in memory,
// the digest over them, and the chunk's file looked at on the drive itself. What `verify` reports
// and `load --repair` goes by. Nothing is admitted to any tier.
#ifndef ENGRAM_SERVER_JOBS_CHUNK_CHECK_H_
#define ENGRAM_SERVER_JOBS_CHUNK_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/tables/tables.h"

namespace engram {

struct ChunkBlock {
  TierStack& stack;
  uint64_t first;  // row
  absl::Span<const RowId> ids;
  absl::Span<const std::byte> rows;
  const std::vector<bool>& failed;  // one an id: its bytes are zeros, not the row
};

struct ChunkFindings {
  Chunk chunk;
  std::string digest;  // of the rows as they were read
  absl::Status file;   // of Store::CheckChunkFile
  uint64_t failed_rows = 0;
  // Of the failed rows, the last ones, that were not asked for: the chunk's file is damaged as a
  // whole, and of some thousand rows before them not one could be read. (To try each page of a file
  // that does not open takes minutes.)
  uint64_t unread_rows = 0;
  // What is wrong, for people: what concerns the whole chunk, else the first runs of failed rows.
  std::vector<std::string> problems;

  bool whole() const { return failed_rows == 0 && file.ok() && digest == chunk.digest; }
  // Rows that cannot be read, or cannot be trusted.
  uint64_t bad_rows() const { return whole() ? 0 : failed_rows > 0 ? failed_rows : chunk.rows; }
};

// Blocks. `each` sees every block that is read, of some thousand rows, in order; its error ends the
// reading and is returned. A damaged chunk is no error. NotFound: the version has been dropped.
absl::StatusOr<ChunkFindings> ReadBackChunk(
    const Store& store, const OpenTable& table, const Chunk& chunk,
    absl::FunctionRef<absl::Status(const ChunkBlock&)> each);

}  // namespace engram

#endif  // ENGRAM_SERVER_JOBS_CHUNK_CHECK_H_
