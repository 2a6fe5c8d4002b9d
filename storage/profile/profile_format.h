// The constants and rules of a profile's file (FORMAT.md), which its reader (profile_file.cc) and
// its writer (profile_writer.cc) share. Not for others.
#ifndef ENGRAM_STORAGE_PROFILE_PROFILE_FORMAT_H_
#define ENGRAM_STORAGE_PROFILE_PROFILE_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/profile/row_profile.h"

namespace engram::profile_format {

inline constexpr absl::string_view kMagic = "engrmhot";
inline constexpr uint32_t kFormat = 1;
inline constexpr size_t kFormatOffset = 8;
inline constexpr size_t kLayersOffset = 12;
inline constexpr size_t kSizeOffset = 16;
inline constexpr size_t kFirstBytes = 24;  // up to and with the file's size
inline constexpr size_t kFingerprintLength = 32;
inline constexpr size_t kTokenMapDigestLength = 64;
inline constexpr size_t kDigestLength = 32;
inline constexpr size_t kMaxFamilyLength = 128;
inline constexpr size_t kMinBytes =
    kFirstBytes + 16 + kFingerprintLength + kTokenMapDigestLength + 4;

// Whether a file of `file_bytes` that begins so is worth reading. DataLoss, FailedPrecondition.
absl::Status CheckFirstBytes(absl::string_view bytes, uint64_t file_bytes);

// InvalidArgument, naming layer and value, for what row_profile.h does not allow. CheckProfile
// checks everything, the others a part: all but the heads; one layer but for its head; that no row
// stands twice in a head whose ids are below the layer's rows.
absl::Status CheckProfile(const RowProfile& profile);
absl::Status CheckOutline(const RowProfile& profile);
absl::Status CheckLayerOutline(const LayerProfile& layer);
absl::Status CheckRepeats(const LayerProfile& layer);

// The orders that these columns have, ascending.
std::vector<int32_t> OrdersOf(const std::vector<ProfiledColumn>& columns);

}  // namespace engram::profile_format

#endif  // ENGRAM_STORAGE_PROFILE_PROFILE_FORMAT_H_
