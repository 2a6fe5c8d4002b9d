// The policy by which a DRAM budget becomes segments: whether a layer is resident, how many
// segments it has, and how large they are. layout.h says what lies in them.
//
// A pure function; safe from any thread. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_FIT_SHAPE_H_
#define ENGRAM_STORAGE_DRAM_FIT_SHAPE_H_

#include <cstdint>

#include "storage/dram/layout.h"

namespace engram::dram {

// The largest layout within `budget_bytes`, HeapBytes() included: kResident when that holds all
// rows of the layer, else kCache; without segments when the budget is too small for one set.
// Segments of large tiers are whole huge pages, some 64 of them, and 1 GiB at most until there are
// 256: so that a tier can give up a small part, and a client has few to map. Any budget, row size
// and number of rows gives a layout whose numbers are right: what does not fit into them is not
// resident. Requires row_bytes > 0, layer_rows > 0 and page_bytes a multiple of kPageBytes, and of
// kHugePageBytes or below it.
LayerShape FitShape(uint64_t budget_bytes, uint32_t row_bytes, uint64_t layer_rows,
                    uint64_t page_bytes = kPageBytes);

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_FIT_SHAPE_H_
