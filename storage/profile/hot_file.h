// What a HOT file (FORMAT.md) says beside its rows: for its writer (hot_writer.h), its reader
// (hot_reader.h) and who calls them. Plain values.
#ifndef ENGRAM_STORAGE_PROFILE_HOT_FILE_H_
#define ENGRAM_STORAGE_PROFILE_HOT_FILE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/table/ids.h"

namespace engram {

enum class HotKind : uint32_t {
  kProfile = 1,  // counted over text: all rows of a count, then all of the next lower one
  kLive = 2,     // what DRAM held, observed while serving: in the order of the cache
};
absl::string_view HotKindName(HotKind kind);  // "profile", "live"

// Rows that are written, checked and reported together.
inline constexpr uint32_t kHotBlockRows = 1 << 16;
// Of a live row: what the DRAM tier counts up to.
inline constexpr uint32_t kMaxLiveCount = 255;

struct HotHeader {
  HotKind kind = HotKind::kProfile;
  uint32_t layers = 0;
  uint64_t tokens = 0;           // as in RowProfile; 0 in files of the data directory
  uint64_t sequences = 0;        // likewise
  std::string fingerprint;       // AddressingFingerprint of the table
  std::string token_map_digest;  // as in RowProfile
  std::string family;            // likewise
  std::string table;             // whose file this is; empty: of any table of this addressing

  bool operator==(const HotHeader&) const = default;
};

// Rows with the same count.
struct HotRun {
  uint32_t count = 0;
  absl::Span<const RowId> ids;
};
// An error ends the reading, and is passed on. The ids are there during the call only.
using HotRunVisitor = std::function<absl::Status(const HotRun& run)>;

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_HOT_FILE_H_
