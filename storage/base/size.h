// Sizes in bytes as people write them: `264B`, `64KiB`, `1.5GiB`, `0`.
#ifndef ENGRAM_STORAGE_BASE_SIZE_H_
#define ENGRAM_STORAGE_BASE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram {

// Accepts a non-negative decimal number with one of the units B, KiB, MiB, GiB, TiB (a space
// before the unit is allowed); only 0 may stand without a unit.
// InvalidArgument, naming `text`, for anything else and for sizes of 2^63 bytes and more.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);

// The shortest exact form where there is one (`4GiB`), else two decimals (`1.53GiB`).
std::string FormatSize(uint64_t bytes);

}  // namespace engram

#endif  // ENGRAM_STORAGE_BASE_SIZE_H_
