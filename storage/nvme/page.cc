#include "storage/nvme/page.h"

#include <algorithm>

namespace engram {
namespace {

bool Fits(uint32_t value_bytes, uint32_t block_bytes) {
  return value_bytes + BlockOverhead(value_bytes) <= block_bytes;
}

uint32_t RowsIn(uint32_t block_bytes, uint32_t row_bytes) {
  // The overhead of a value as long as the block may be a byte more than that of one that fits.
  const uint32_t rows = (block_bytes - BlockOverhead(block_bytes)) / row_bytes;
  return Fits((rows + 1) * row_bytes, block_bytes) ? rows + 1 : rows;
}

}  // namespace

uint64_t PageGeometry::ValueBytes(PageId page, uint64_t rows) const {
  const uint64_t first = Raw(page) * rows_per_page;
  if (first >= rows) return 0;
  return std::min<uint64_t>(rows_per_page, rows - first) * row_bytes;
}

PageGeometry ChoosePageGeometry(uint32_t row_bytes) {
  std::array<uint32_t, 4> blocks = {4096, 8192, 16384, BlockBytes(row_bytes)};
  std::sort(blocks.begin(), blocks.end());
  PageGeometry best;
  uint64_t best_used = 0;
  for (const uint32_t block : blocks) {
    const uint32_t rows = RowsIn(block, row_bytes);
    if (rows == 0) continue;
    const uint64_t used = uint64_t{rows} * row_bytes;
    // used / block against best_used / best.block_bytes, in integers.
    if (best_used == 0 || used * best.block_bytes > best_used * block) {
      best = {row_bytes, rows, block};
      best_used = used;
    }
    if (used * 100 >= uint64_t{block} * 95) return best;
  }
  return best;
}

PageKey EncodePageKey(PageId page) {
  PageKey key;
  for (size_t i = 0; i < key.size(); ++i) {
    key[i] = static_cast<char>(Raw(page) >> (8 * (key.size() - 1 - i)));
  }
  return key;
}

PageId DecodePageKey(const PageKey& key) {
  uint64_t page = 0;
  for (const char byte : key) page = page << 8 | static_cast<unsigned char>(byte);
  return PageId{page};
}

}  // namespace engram
