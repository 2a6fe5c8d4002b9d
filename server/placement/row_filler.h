// RowFiller: brings wanted rows of one layer from NVMe into its DRAM cache, those that are asked
// for most often first.
//
// The list of rows is a hotness file, in any order and maybe larger than the memory there is. It is
// read once to see how many rows there are of each count, then once for each class of counts, whose
// rows are marked in a bitmap (one bit a row of the layer) and read in the order of their ids: so
// pages are read from front to back, and neighbours together. A row that has no room in its set is
// not read at all. At last the rows' own counts are put right.
//
// One batch of rows is under way at a time, and look-ups share the drive fairly with it. The table
// and its cache are held for a part of a batch only, so that a switch or a drop need not wait, and
// the filling ends when the stack's cache is another one than it began with.
#ifndef ENGRAM_SERVER_PLACEMENT_ROW_FILLER_H_
#define ENGRAM_SERVER_PLACEMENT_ROW_FILLER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/tables/tables.h"
#include "storage/dram/hotness_file.h"
#include "storage/dram/row_cache.h"

namespace engram {

// A layer's cache as it is now, to be found again later.
class CacheHandle {
 public:
  CacheHandle() = default;
  // Of what the stack has now; not valid if that is nothing.
  CacheHandle(const Tables* tables, uint32_t stack_id);

  struct Held {
    std::shared_ptr<const OpenTable> table;  // keeps the stack
    TierStack* stack = nullptr;
    std::shared_ptr<RowCache> cache;  // null: it is gone, or another one has taken its place
  };
  // To be let go of soon: drops and switches wait for it.
  Held Get() const;
  bool valid() const { return tables_ != nullptr; }
  // Whether both are of one cache.
  bool SameAs(const CacheHandle& other) const;

 private:
  const Tables* tables_ = nullptr;
  uint32_t stack_id_ = 0;
  std::weak_ptr<const RowCache> cache_;
};

// Counts of Hotness for the numbers of a hotness file, by number; 0: such rows are left out. Never
// descending as the number grows.
using CountScale = std::array<uint8_t, 256>;
// How many rows a file has of each number.
using NumberHistogram = std::array<uint64_t, 256>;

// Numbers that are counts already.
CountScale LiveScale();
// Levels of a profile: the last row that fits into `slots` gets 4, the others in proportion, 1 to
// 255. So a row that look-ups ask for a few times comes to the same as the weakest one placed, and
// the strongest do not leave for long.
CountScale ProfileScale(const NumberHistogram& rows_of_level, uint64_t slots);

class RowFiller {
 public:
  // Calls the visitor with each row and number of the list; NotFound if there is none.
  using List = std::function<absl::Status(const HotRowVisitor&)>;

  // `stop` ends a filling soon after it is set. All outlive the filler.
  RowFiller(CacheHandle cache, const std::atomic<bool>* stop)
      : cache_(std::move(cache)), stop_(stop) {}

  // How many rows the list has of each number. Errors of `list`.
  static absl::StatusOr<NumberHistogram> Survey(const List& list);

  struct Result {
    uint64_t placed = 0;  // rows that were stored
    uint64_t failed = 0;  // that NVMe could not give
  };
  // Rows come in the order of `scale`, and none has a greater count than `most` in the cache: with
  // 1 they take the place of nothing that anybody has asked for.
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
