// TokenSequences: how the token ids of one request fall into sequences, and which of them only give
// context. The one implementation for code that sends, checks or hashes such a request;
// engram.v1.TokenBatch says what the fields mean.
//
// Borrows everything. A value; safe from any thread.
#ifndef ENGRAM_STORAGE_TABLE_TOKEN_SEQUENCES_H_
#define ENGRAM_STORAGE_TABLE_TOKEN_SEQUENCES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace engram {

// Sequences without ids that one request may have beside those with some.
inline constexpr size_t kMaxEmptySequences = 1024;

struct TokenSequences {
  size_t ids = 0;                             // of all sequences
  absl::Span<const uint32_t> lengths = {};    // of each; none: all ids are one sequence
  absl::Span<const uint32_t> lookbacks = {};  // of each; none: 0

  size_t count() const { return std::max<size_t>(1, lengths.size()); }
  // Requires i < count().
  size_t length(size_t i) const { return lengths.empty() ? ids : lengths[i]; }
  size_t lookback(size_t i) const { return lookbacks.empty() ? 0 : lookbacks[i]; }

  // How many positions get rows. InvalidArgument, naming sequence and numbers, unless the lengths
  // add up to the ids, there is a lookback for each sequence or none, none is more than its
  // sequence, and at most kMaxEmptySequences sequences are more than there are ids.
  absl::StatusOr<uint64_t> CountPositions() const;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_TOKEN_SEQUENCES_H_
