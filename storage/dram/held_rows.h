// What a layer's DRAM tier holds, row by row, with what is known of it, read while others write.
#ifndef ENGRAM_STORAGE_DRAM_HELD_ROWS_H_
#define ENGRAM_STORAGE_DRAM_HELD_ROWS_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "storage/dram/hotness.h"
#include "storage/dram/reader.h"
#include "storage/table/ids.h"

namespace engram::dram {

// Sets, of all segments one after the other; of a resident layer its rows.
uint64_t UnitsIn(const View& view);

// As RowCache::VisitHeld. `hotness` is null for a resident layer, whose rows count 1 each.
void VisitHeldRows(const View& view, Hotness* hotness, uint64_t first, uint64_t units,
                   absl::FunctionRef<void(RowId id, uint32_t count)> visit);

// Hotness::Recall of a row of a kCache view.
void RecallRow(const View& view, Hotness& hotness, uint32_t row_id, uint32_t count);

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_HELD_ROWS_H_
