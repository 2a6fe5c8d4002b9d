// What both readers of a profile's file (PROFILE_FORMAT.md) know of it: the one that holds all of
// it (RowProfile) and the one that does not (ProfileFile). Not for others.
#ifndef ENGRAM_STORAGE_PROFILE_ROW_PROFILE_FORMAT_H_
#define ENGRAM_STORAGE_PROFILE_ROW_PROFILE_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/profile/row_profile.h"

namespace engram::profile_format {

inline constexpr size_t kFingerprintLength = 32;
inline constexpr size_t kTokenMapDigestLength = 64;
inline constexpr size_t kDigestLength = 32;
inline constexpr size_t kMaxFamilyLength = 128;
// Up to and with the file's size.
inline constexpr size_t kFirstBytes = 24;
inline constexpr size_t kMinBytes =
    kFirstBytes + 16 + kFingerprintLength + kTokenMapDigestLength + 4;

// Whether a file of `file_bytes` that begins so is worth reading. DataLoss, FailedPrecondition.
absl::Status CheckFirstBytes(absl::string_view bytes, uint64_t file_bytes);

// InvalidArgument, naming layer and value, for what row_profile.h does not allow.
absl::Status CheckProfile(const RowProfile& profile);

// The orders that these columns have, ascending.
std::vector<int32_t> OrdersOf(const std::vector<ProfiledColumn>& columns);

}  // namespace engram::profile_format

#endif  // ENGRAM_STORAGE_PROFILE_ROW_PROFILE_FORMAT_H_
