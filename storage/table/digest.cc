#include "storage/table/digest.h"

// Compiled in here: the library's copy is for any processor, and takes three times as long.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_format.h"

namespace engram {

struct Digest::State {
  State() : state(XXH3_createState()) { XXH3_128bits_reset(state); }
  ~State() { XXH3_freeState(state); }
  XXH3_state_t* state;
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::~Digest() = default;

void Digest::Update(absl::Span<const std::byte> bytes) {
  XXH3_128bits_update(state_->state, bytes.data(), bytes.size());
}

void Digest::Update(absl::string_view text) {
  XXH3_128bits_update(state_->state, text.data(), text.size());
}

std::string Digest::Hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->state);
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace engram
