// The constants and rules of HOT files (FORMAT.md), which their reader (hot_reader.cc) and their
// writer (hot_writer.cc) share. Not for others.
#ifndef ENGRAM_STORAGE_PROFILE_PROFILE_FORMAT_H_
#define ENGRAM_STORAGE_PROFILE_PROFILE_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/profile/hot_file.h"
#include "storage/profile/row_profile.h"

namespace engram::profile_format {

inline constexpr absl::string_view kMagic = "engrmhot";
// Of the files that the data directory had before format 2.
inline constexpr absl::string_view kOldMagic = "engrhot1";
inline constexpr uint32_t kFormat = 2;
inline constexpr size_t kFingerprintLength = 32;
inline constexpr size_t kTokenMapDigestLength = 64;
inline constexpr size_t kDigestLength = 32;
inline constexpr size_t kMaxFamilyLength = 128;

// InvalidArgument, naming layer and value, for what row_profile.h and FORMAT.md do not allow.
// CheckProfile checks all of a profile, the others a part of a file: its header; one layer but for
// its rows; that no row stands twice in a head whose ids are below the layer's rows.
absl::Status CheckProfile(const RowProfile& profile);
absl::Status CheckHeader(const HotHeader& header);
absl::Status CheckLayerOutline(HotKind kind, const LayerProfile& layer);
absl::Status CheckRepeats(const LayerProfile& layer);

// The header of this profile's file.
HotHeader HeaderOf(const RowProfile& profile);

// The orders that these columns have, ascending.
std::vector<int32_t> OrdersOf(const std::vector<ProfiledColumn>& columns);

}  // namespace engram::profile_format

#endif  // ENGRAM_STORAGE_PROFILE_PROFILE_FORMAT_H_
