// Counts how often token files ask for each row of a table: exactly, and in bounded memory.
//
// A layer's rows are counted range by range, each range by one array with two bytes a row; as many
// rows at a time as the memory has room for, and the files are read anew for each range. A row's
// counter that runs over is noted beside it, at most one such note for 65,536 look-ups counted. The
// threads share out a range, so that no counter belongs to two: each reads all tokens, hashes them
// (half a nanosecond a row) and leaves out the rows of the others. Counting a row waits for memory
// some ten times longer than that, so few threads lose little by it, and nothing has to be locked.
#ifndef ENGRAM_STORAGE_PROFILE_ROW_COUNTER_H_
#define ENGRAM_STORAGE_PROFILE_ROW_COUNTER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/profile/row_profile.h"
#include "storage/profile/token_files.h"
#include "storage/table/spec.h"

namespace engram {

struct CountProgress {
  int32_t layer = 0;
  uint64_t ids_read = 0;   // of one thread, over all layers and ranges
  uint64_t ids_total = 0;  // that it will have read in the end
};

struct CountOptions {
  // For counters and the rows to be kept; the least that works is in the error if this is less.
  uint64_t memory_bytes = uint64_t{2} << 30;
  uint64_t head_rows = 0;  // to be kept by name in each layer
  size_t threads = 1;
  const std::atomic<bool>* cancelled = nullptr;
  std::function<void(const CountProgress&)> on_progress = {};  // called on the calling thread
};

// What was counted, and in how many ranges a layer at most.
struct CountedRows {
  RowProfile profile;
  uint64_t ranges = 0;
};

// `token_map`: the table's, for files of raw ids that it compresses; empty for others.
// FailedPrecondition if the table's rows are addressed by id only, or if the map is not the table's
// (by its digest). InvalidArgument if the map is none, or if the memory is too small, naming what
// is needed. Errors of NgramHasher::Create and TokenFiles::Read; Cancelled; OutOfRange for a row
// that is asked for more than kMaxRowCount times.
absl::StatusOr<CountedRows> CountRows(const TableSpec& spec, const std::vector<int32_t>& token_map,
                                      const TokenFiles& files, const CountOptions& options);

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_ROW_COUNTER_H_
