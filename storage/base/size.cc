#include "storage/base/size.h"

#include <array>
#include <cmath>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace engram {
namespace {

constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a size: write 0 or a number with B, KiB, MiB, GiB or TiB",
                     ", such as 16GiB"));
  };
  const absl::string_view trimmed = absl::StripAsciiWhitespace(text);
  const size_t digits = trimmed.find_first_not_of("0123456789.");
  const absl::string_view number = trimmed.substr(0, digits);
  double value = 0;
  if (number.empty() || !absl::SimpleAtod(number, &value) || !std::isfinite(value)) return bad();
  if (digits == absl::string_view::npos) {
    if (value != 0) return bad();
    return 0;
  }
  const absl::string_view unit = absl::StripLeadingAsciiWhitespace(trimmed.substr(digits));
  double scale = 1;
  for (const char* name : kUnits) {
    if (unit == name) {
      const double bytes = value * scale;
      if (bytes >= 9.2e18) return bad();
      return static_cast<uint64_t>(std::llround(bytes));
    }
    scale *= 1024;
  }
  return bad();
}

std::string FormatSize(uint64_t bytes) {
  size_t unit = 0;
  uint64_t scale = 1;
  while (unit + 1 < kUnits.size() && bytes / scale >= 1024) {
    scale *= 1024;
    ++unit;
  }
  if (bytes % scale == 0) return absl::StrCat(bytes / scale, kUnits[unit]);
  return absl::StrFormat("%.2f%s", static_cast<double>(bytes) / static_cast<double>(scale),
                         kUnits[unit]);
}

}  // namespace engram
