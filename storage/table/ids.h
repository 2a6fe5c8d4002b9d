// Strong types for the numbers that name things. Raw(x) gives the number behind one.
#ifndef ENGRAM_STORAGE_TABLE_IDS_H_
#define ENGRAM_STORAGE_TABLE_IDS_H_

#include <cstdint>
#include <type_traits>

namespace engram {

// A row of one layer: dense, 0 … rows−1, the column's offset already added.
enum class RowId : uint32_t {
  // −1 as int32: a position without a row. Served as zeros, never looked up in a tier.
  kDeadPosition = 0xFFFFFFFFu,
};

// A layer's own number in the model's config (DeepSeek-V4.1-Flash: 1 and 14).
enum class LayerId : int32_t {};

// A version of a table; counted from 1. 0 in a request means "the active one".
enum class VersionId : uint64_t {};
inline constexpr VersionId kActiveVersion{0};

// A page of whole rows in the NVMe tier: page p holds rows p·k … p·k + k − 1.
enum class PageId : uint64_t {};

template <typename Id>
constexpr std::underlying_type_t<Id> Raw(Id id) {
  return static_cast<std::underlying_type_t<Id>>(id);
}

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_IDS_H_
