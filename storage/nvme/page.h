// Page geometry: how rows lie in the blocks of an SST file.
//
// A page is a run of whole rows, packed; it is the value of one RocksDB key, and fills one block
// that begins at a multiple of 4 KiB, so that one row costs one aligned read. Pure values; safe
// from any thread.
#ifndef ENGRAM_STORAGE_NVME_PAGE_H_
#define ENGRAM_STORAGE_NVME_PAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "storage/table/ids.h"

namespace engram {

inline constexpr uint32_t kPageAlignment = 4096;

// What RocksDB adds to a value in a block that holds one entry: 3 to 5 bytes of entry header (two
// lengths of one byte each, and the value's: 2 bytes up to 16,383, 3 above), the 16-byte internal
// key (ours is 8), 8 bytes of restart array, 5 bytes of trailer. So 4,063 bytes fit into 4 KiB.
constexpr uint32_t BlockOverhead(uint32_t value_bytes) {
  const uint32_t length_bytes = value_bytes < 128 ? 1 : value_bytes < 16384 ? 2 : 3;
  return 2 + length_bytes + 16 + 8 + 5;
}

// What a block that holds one such value takes on the drive.
constexpr uint32_t BlockBytes(uint32_t value_bytes) {
  const uint32_t bytes = value_bytes + BlockOverhead(value_bytes);
  return (bytes + kPageAlignment - 1) / kPageAlignment * kPageAlignment;
}

struct PageGeometry {
  uint32_t row_bytes = 0;
  uint32_t rows_per_page = 0;
  uint32_t block_bytes = 0;  // on the drive; a multiple of kPageAlignment

  PageId PageOf(RowId row) const { return PageId{Raw(row) / rows_per_page}; }
  uint64_t Pages(uint64_t rows) const { return (rows + rows_per_page - 1) / rows_per_page; }
  // Bytes of the value of `page` in a layer of `rows` rows: the last page may be short. 0 past it.
  uint64_t ValueBytes(PageId page, uint64_t rows) const;

  bool operator==(const PageGeometry&) const = default;
};

// Blocks of 4, 8 and 16 KiB and the smallest that holds one row are candidates: the smallest that
// wastes at most 5 % is taken, else the one that wastes least.
// Requires: 0 < row_bytes ≤ kMaxRowBytes.
PageGeometry ChoosePageGeometry(uint32_t row_bytes);

// Big-endian, so that keys sort as page ids do.
using PageKey = std::array<char, 8>;
PageKey EncodePageKey(PageId page);
PageId DecodePageKey(const PageKey& key);

}  // namespace engram

#endif  // ENGRAM_STORAGE_NVME_PAGE_H_
