// A digest of bytes in order: XXH3-128, as 32 hex digits.
//
// It finds what breaks by accident (a flipped bit, a page in the wrong place, a truncated file) at
// memory speed; it does not withstand somebody who wants a collision.
// One thread at a time.
#ifndef ENGRAM_STORAGE_TABLE_DIGEST_H_
#define ENGRAM_STORAGE_TABLE_DIGEST_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace engram {

class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void Update(absl::Span<const std::byte> bytes);
  void Update(absl::string_view text);

  // Of everything so far. May be called more than once.
  std::string Hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_DIGEST_H_
