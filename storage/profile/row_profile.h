// RowProfile: how often the rows of a table are asked for, counted over some text; what rows are
// placed by and hit ratios are predicted from. FORMAT.md has its file, byte by byte.
//
// A layer's profile has its most frequent rows by name (the head), and of all rows that were asked
// for how many there are of each frequency. A profile belongs to an addressing, not to one version
// of a table: it stays good for every version whose n-grams hash to the same rows.
//
// Plain values; safe to share between threads while nobody changes them.
#ifndef ENGRAM_STORAGE_PROFILE_ROW_PROFILE_H_
#define ENGRAM_STORAGE_PROFILE_ROW_PROFILE_H_

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/table/ids.h"
#include "storage/table/spec.h"

namespace engram {

inline constexpr uint64_t kMaxRowCount = std::numeric_limits<uint32_t>::max();
// Larger files are neither written nor read: 2^30 rows by name, more than any tier has room for.
inline constexpr uint64_t kMaxProfileBytes = uint64_t{5} << 30;
// Frequencies of all orders and layers together; bounds the reader's memory. A billion tokens have
// some ten thousand an order.
inline constexpr uint64_t kMaxClasses = uint64_t{1} << 21;

// `rows` rows were asked for `count` times each.
struct CountClass {
  uint64_t count = 0;
  uint64_t rows = 0;

  bool operator==(const CountClass&) const = default;
};

uint64_t Accesses(const std::vector<CountClass>& classes);  // Σ count × rows
uint64_t DistinctRows(const std::vector<CountClass>& classes);

// The rows of one n-gram order: counts strictly descending, 1 … kMaxRowCount, rows at least 1.
struct OrderProfile {
  int32_t order = 0;
  std::vector<CountClass> classes;

  bool operator==(const OrderProfile&) const = default;
};

struct HotRow {
  RowId id{};
  uint32_t count = 0;

  bool operator==(const HotRow&) const = default;
};

// Consecutive rows of one order: a ColumnSpec without its head.
struct ProfiledColumn {
  int32_t order = 0;
  uint64_t rows = 0;

  bool operator==(const ProfiledColumn&) const = default;
};

struct LayerProfile {
  LayerId id{};
  uint64_t rows = 0;
  std::vector<ProfiledColumn> columns;  // in table order
  std::vector<OrderProfile> orders;     // ascending; one for each order that the columns have
  // The most frequent rows, most frequent first, of equal ones the lower id first. It ends where
  // whoever counted wanted no more, or with the last row that was asked for.
  std::vector<HotRow> head;

  // Of all orders together, counts descending.
  std::vector<CountClass> Classes() const;
  bool operator==(const LayerProfile&) const = default;
};

struct RowProfile {
  std::string family;       // TableSpec::family
  std::string fingerprint;  // AddressingFingerprint of the table
  // TableSpec::token_map_digest; empty if the tokens were compressed already.
  std::string token_map_digest;
  uint64_t tokens = 0;               // that got rows: one of each column of each layer
  uint64_t sequences = 0;            // token files
  std::vector<LayerProfile> layers;  // ascending by id

  // Null when there is no such layer.
  const LayerProfile* FindLayer(LayerId id) const;

  // FailedPrecondition, naming the first difference and both values, unless the table asks for the
  // same rows as the one that was counted. Token maps are compared only where both are known.
  absl::Status CheckFor(const TableSpec& spec) const;

  // The file's bytes. InvalidArgument, naming layer and value, for a profile that breaks what is
  // said above, or that would be larger than kMaxProfileBytes.
  absl::StatusOr<std::string> Serialize() const;
  // What ProfileFile::Scan reads, with its heads. Errors of Scan; DataLoss too for a row that
  // stands twice in a head. Allocates some three times bytes.size() at most, whatever the bytes
  // say.
  static absl::StatusOr<RowProfile> Parse(absl::string_view bytes);

  // Makes or replaces the file at once: after a crash it is the old one or the new one, whole. What
  // is left of a write that was killed is named PATH.new.PID. Errors of Serialize; Unavailable with
  // path and errno. Blocks on the drive.
  absl::Status Write(const std::string& path) const;
  // The same of a file, which it never holds beside the profile. Errors of ProfileFile::Open and
  // Parse, with the path.
  static absl::StatusOr<RowProfile> Read(const std::string& path);

  bool operator==(const RowProfile&) const = default;
};

// 32 hex digits over all that decides which rows the n-grams of hashed ids ask for: AddressingSpec,
// layers, columns and multipliers, not the rows' size, format or content, nor the token map.
std::string AddressingFingerprint(const TableSpec& spec);

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_ROW_PROFILE_H_
