#include "storage/nvme/page_block.h"

// Compiled in here: the library's copy is for any processor, and takes three times as long.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "storage/nvme/page.h"

namespace engram {
namespace {

// An entry: bytes shared with the entry before (none), bytes of the internal key, bytes of the
// value, each a varint; the key; 8 bytes of sequence number and kind; the value. Behind it the
// restart array: where the only entry begins, and that it is the only one. (RocksDB 7.8,
// table/block_based/block_builder.cc.)
constexpr size_t kLongestHeader = 2 + 4 + 16;
constexpr size_t kRestartBytes = 8;
constexpr std::byte kRestarts[kRestartBytes] = {std::byte{0}, std::byte{0}, std::byte{0},
                                                std::byte{0}, std::byte{1}, std::byte{0},
                                                std::byte{0}, std::byte{0}};
// Behind the block: the compression type (none) and the checksum.
constexpr size_t kTypeBytes = 1;
constexpr size_t kChecksumBytes = 4;
// Of an ingested file: sequence number 0, kind "value", little-endian.
constexpr std::byte kSequenceAndKind{1};

// What stands before the value of `page`; returns its length.
size_t WriteHeader(PageId page, uint32_t value_bytes, std::byte* out) {
  std::byte* at = out;
  *at++ = std::byte{0};
  *at++ = std::byte{16};
  for (uint32_t rest = value_bytes; true; rest >>= 7) {
    const bool last = rest < 128;
    *at++ = static_cast<std::byte>((rest & 127) | (last ? 0 : 128));
    if (last) break;
  }
  const PageKey key = EncodePageKey(page);
  std::memcpy(at, key.data(), key.size());
  at += key.size();
  *at++ = kSequenceAndKind;
  std::memset(at, 0, 7);
  return static_cast<size_t>(at + 7 - out);
}

// RocksDB's checksum of type XXH3 over a block and its type byte, which is 0 here
// (table/format.cc, ComputeBuiltinChecksum: the last byte is mixed in by a product, so a 0 leaves
// the hash as it is).
uint32_t Checksum(absl::Span<const std::byte> block) {
  return static_cast<uint32_t>(XXH3_64bits(block.data(), block.size()));
}

}  // namespace

PageBlock ReadPageBlock(PageId page, uint32_t value_bytes, absl::Span<const std::byte> block) {
  std::byte header[kLongestHeader];
  const size_t header_bytes = WriteHeader(page, value_bytes, header);
  const size_t content_bytes = header_bytes + value_bytes + kRestartBytes;
  if (block.size() < content_bytes + kTypeBytes + kChecksumBytes) {
    return {.state = PageBlockState::kShort, .value = {}};
  }
  const std::byte* const trailer = block.data() + content_bytes;
  const bool of_this_make = std::memcmp(block.data(), header, header_bytes) == 0 &&
                            std::memcmp(trailer - kRestartBytes, kRestarts, kRestartBytes) == 0 &&
                            *trailer == std::byte{0};
  if (!of_this_make) return {.state = PageBlockState::kOtherContent, .value = {}};
  uint32_t stored = 0;
  std::memcpy(&stored, trailer + kTypeBytes, sizeof(stored));
  if (Checksum(block.first(content_bytes)) != stored) {
    return {.state = PageBlockState::kWrongChecksum, .value = {}};
  }
  return {.state = PageBlockState::kGood, .value = block.subspan(header_bytes, value_bytes)};
}

}  // namespace engram
