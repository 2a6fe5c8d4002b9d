// The catalog's text form of a table: what parses must print and parse to the same again.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "storage/table/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto spec = engram::ParseTableSpec(text);
  if (spec.ok()) {
    const auto again = engram::ParseTableSpec(engram::TableSpecToJson(*spec));
    if (!again.ok() || !(*again == *spec)) std::abort();
  }
  return 0;
}
