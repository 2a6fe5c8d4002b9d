// JSON text to a tree, for files that other programs wrote. Included by .cc files only.
//
// Stricter than the library: no key twice in one object (which of the two counts differs from
// reader to reader), no NUL byte, bounded nesting. No exception gets out.
#ifndef ENGRAM_STORAGE_CHECKPOINT_STRICT_JSON_H_
#define ENGRAM_STORAGE_CHECKPOINT_STRICT_JSON_H_

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram {

// The object that `text` holds. DataLoss naming `file` if it is no such thing.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view file, absl::string_view text);

// For messages: "a string", "an array", …
const char* JsonTypeName(const nlohmann::json& value);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_STRICT_JSON_H_
