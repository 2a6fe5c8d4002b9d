// tokenizer.json: what makes a token map makes one that its own bytes give again, and a text has a
// key whatever its bytes are.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "storage/checkpoint/tokenizer.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  Require(engram::NormalizeToken(text).empty() == text.empty());
  const auto map = engram::ParseTokenizer("fuzz", text);
  if (!map.ok()) {
    Require(absl::IsInvalidArgument(map.status()) || absl::IsDataLoss(map.status()));
    return 0;
  }
  Require(map->size() >= 1 && map->size() < size);
  Require(map->compressed_size() >= 1 && map->compressed_size() <= map->size());
  Require(map->bytes().size() == 4 * map->size());
  const auto again = engram::TokenMap::Parse(map->bytes(), map->digest());
  Require(again.ok() && again->compressed() == map->compressed());
  Require(again->compressed_size() == map->compressed_size());
  return 0;
}
