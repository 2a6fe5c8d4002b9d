// The block of an SST file that holds one page, byte for byte.
//
// RocksDB writes it (block-based table, format 5, one entry a block, no compression, XXH3), and the
// NVMe tier reads it past RocksDB, by its offset. What is checked here is all that RocksDB would
// check of a block and more: the checksum, and that the entry is of this page's number and size, so
// that neither damage nor a wrong offset within the layer's files can give another row. A block
// names no table, version or layer: the code that opens the file (page_files.h) makes sure that it
// is the right one. FORMAT.md draws it. Pure functions.
#ifndef ENGRAM_STORAGE_NVME_PAGE_BLOCK_H_
#define ENGRAM_STORAGE_NVME_PAGE_BLOCK_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "storage/table/ids.h"

namespace engram {

enum class PageBlockState {
  kGood,
  kShort,          // fewer bytes than the page takes
  kOtherContent,   // another page's, of another size, or no page at all
  kWrongChecksum,  // of the right make, but some bit is not as it was written
};

struct PageBlock {
  PageBlockState state = PageBlockState::kShort;
  absl::Span<const std::byte> value;  // the page's rows, within the block given; empty unless good
};

// The value of `page`, which has `value_bytes`, from the bytes that lie at its offset. `block` may
// be longer than the page takes: what pads it is not looked at.
// Requires: 0 < value_bytes < 2^28.
PageBlock ReadPageBlock(PageId page, uint32_t value_bytes, absl::Span<const std::byte> block);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_PAGE_BLOCK_H_
