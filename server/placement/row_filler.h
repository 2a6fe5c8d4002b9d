// RowFiller: reads listed rows of one layer from NVMe into its DRAM cache, the most frequently read
// first.
//
// The list is a hotness file, in any order and maybe larger than the memory there is: runs of rows,
// each with a number, which is a live row's count or a profile's level. It is read once to count
// the rows of each number, then once for each class of numbers, whose rows are marked in a bitmap
// (one bit a row of the layer) and read in the order of their ids: pages from front to back,
// neighbours together. A row that has no room in its set is not read at all. At last each row gets
// its own count.
//
// One batch of rows is under way at a time, and look-ups share the drive fairly with it. The table
// and its cache are held for a part of a batch only, so that a switch or a drop need not wait, and
// the filling ends when the layer has another cache than it began with.
//
// One thread at a time; blocks on the drive.
#ifndef ENGRAM_SERVER_PLACEMENT_ROW_FILLER_H_
#define ENGRAM_SERVER_PLACEMENT_ROW_FILLER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/placement/cache_handle.h"
#include "storage/dram/row_cache.h"
#include "storage/profile/hot_file.h"

namespace engram {

// Counts of Hotness for the numbers of a list, by number; 0: such rows are left out. Never
// descending as the number grows.
using CountScale = std::array<uint8_t, 256>;
// How many rows a list has of each number.
using NumberHistogram = std::array<uint64_t, 256>;

// Numbers that are counts already.
CountScale LiveScale();
// Levels of a profile: the last row that fits into `slots` gets 4, the others in proportion, 1 to
// 255. So a row that look-ups ask for a few times comes to the same as the weakest one placed, and
// the strongest do not leave for long.
CountScale ProfileScale(const NumberHistogram& rows_of_level, uint64_t slots);

class RowFiller {
 public:
  // Calls the visitor with the list's rows, by numbers of at most 255; NotFound if there is none.
  using List = std::function<absl::Status(const HotRunVisitor&)>;

  // `stop` ends a filling soon after it is set. All outlive the filler.
  RowFiller(CacheHandle cache, const std::atomic<bool>* stop)
      : cache_(std::move(cache)), stop_(stop) {}

  // How many rows the list has of each number. Errors of `list`.
  static absl::StatusOr<NumberHistogram> Survey(const List& list);

  struct Result {
    uint64_t placed = 0;  // rows that were stored
    uint64_t failed = 0;  // that NVMe could not give
  };
  // Rows are placed in descending order of `scale`, with a count of at most `most`: with 1 they
  // replace no row that a look-up has read.
  // Returns when all is done. Cancelled: `stop`, or the cache is gone; errors of `list`.
  absl::StatusOr<Result> Fill(const List& list, const NumberHistogram& rows_of_number,
                              const CountScale& scale, uint32_t most = dram::kMaxCount);

 private:
  // Numbers [low, high] that are placed together.
  struct Class {
    uint32_t low = 0;
    uint32_t high = 0;
  };
  static std::vector<Class> ClassesOf(const NumberHistogram& rows, const CountScale& scale,
                                      bool resident);
  absl::Status FillClass(const List& list, Class numbers, uint32_t count, uint64_t layer_rows);
  absl::Status FillBatch(std::vector<RowId>& ids, uint32_t count);
  absl::Status RecallAll(const List& list, const CountScale& scale, uint32_t most);

  const CacheHandle cache_;
  const std::atomic<bool>* const stop_;
  Result result_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_ROW_FILLER_H_
