// The segments of one layer: those that an earlier daemon left, if they fit, and new ones.
//
// Pure functions over a SegmentStore; the caller owns the result.
#ifndef ENGRAM_STORAGE_DRAM_SEGMENT_SET_H_
#define ENGRAM_STORAGE_DRAM_SEGMENT_SET_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/dram/layout.h"
#include "storage/dram/segment.h"

namespace engram {

struct SegmentSet {
  dram::LayerShape shape;
  std::vector<std::shared_ptr<Segment>> segments;  // shape.segments of them
  std::vector<uint16_t> bucket_segments;           // as dram::View wants it
  std::vector<uint64_t> rows_held;                 // of each segment; 0 in new ones
  uint64_t sets_dropped = 0;                       // that a dead writer had left half written
};

struct SegmentSetRequest {
  uint64_t budget_bytes = 0;
  uint32_t row_bytes = 0;
  uint64_t layer_rows = 0;
  std::string table_digest = {};
  int32_t layer = 0;
};

// Within the budget at every moment. InvalidArgument, naming the least, for a budget below one set;
// else as SegmentStore::Create.
absl::StatusOr<SegmentSet> MakeSegmentSet(SegmentStore& store, const SegmentSetRequest& request);

// What `current` becomes with the request's budget: its segments as far as there is room, and new
// ones, of the same size. Both may be used until `current`'s last segments are discarded, and rows
// stay but for those whose bucket goes to another segment. The numbers of rows held are not
// counted. FailedPrecondition: that cannot be, or would waste a quarter of the budget; make a new
// set instead. Else as MakeSegmentSet.
absl::StatusOr<SegmentSet> ResizeSegmentSet(SegmentStore& store, const SegmentSetRequest& request,
                                            const SegmentSet& current);

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_SEGMENT_SET_H_
