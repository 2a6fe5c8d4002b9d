// NgramHasher: the rows of one layer that a sequence of tokens asks for.
//
// Column c of order n holds the n-grams that end at a position: its token t0 and the n − 1 tokens
// before it, t1 the nearest. A token counts as the pad if it lies before the start of the sequence,
// or if a dead token, or the boundary token (AddressingSpec::boundary_id), stands at it or between
// it and the position; the boundary token itself still sees what is before it, and a dead token is
// the pad to those behind it. With m the layer's multipliers, M the column's rows:
//
//   kXorMultiply  (t0·m0 ⊕ t1·m1 ⊕ … ⊕ t(n−1)·m(n−1)) mod M
//   kPolynomial   (t0 + Σ td · (vocab_size^d mod M)) mod M,  d = 1 … n − 1
//
// and the row id is that plus the rows of the columns before. At a dead position (−1: an image's
// place, say) every column gives kDeadPosition. That dead tokens end an n-gram is DeepSeek-V4.1's
// rule; the other families' own code knows none, and gets the same.
//
// A table's columns are few, so all constants are made once; nothing is divided afterwards.
// Immutable; safe from any thread. It allocates in Create only.
#ifndef ENGRAM_STORAGE_TABLE_NGRAM_HASHER_H_
#define ENGRAM_STORAGE_TABLE_NGRAM_HASHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/table/ids.h"
#include "storage/table/spec.h"

namespace engram {

// A sequence, or a chunk of one with the tokens before it.
struct TokenSpan {
  absl::Span<const int32_t> ids;
  // So many of the first ids are only context: they get no rows. Less than lookback() of them mean
  // that the sequence begins with the first. At most ids.size().
  size_t lookback = 0;

  size_t positions() const { return ids.size() - lookback; }
};

class NgramHasher {
 public:
  // In a sequence of token ids: no token, and no rows.
  static constexpr int32_t kDeadPosition = -1;

  // InvalidArgument if the layer has no addressing (HashKind::kNone), or its numbers cannot be.
  static absl::StatusOr<NgramHasher> Create(const AddressingSpec& addressing,
                                            const LayerSpec& layer);
  NgramHasher(NgramHasher&&) noexcept;
  NgramHasher& operator=(NgramHasher&&) noexcept;
  ~NgramHasher();

  size_t columns() const;   // rows a position
  size_t lookback() const;  // ids before a chunk that its rows depend on: max_ngram_size − 1

  // Whether Hash works on eight columns at once: every column has more than 2^15 and less than 2^30
  // rows, and the sums of a polynomial stay below 2^53. Otherwise it is HashPlain.
  bool vectorized() const;

  // InvalidArgument, naming value and index, unless every id is kDeadPosition or one that is
  // hashed.
  absl::Status Check(absl::Span<const int32_t> ids) const;

  // Fills `out`, positions() × columns() row ids, position by position, in column order. Requires
  // ids that Check accepts, and out of that size.
  void Hash(const TokenSpan& tokens, absl::Span<RowId> out) const;

  // The same, written as the formulas above are, one division a row: what Hash is checked against,
  // and its baseline in engram_bench.
  void HashPlain(const TokenSpan& tokens, absl::Span<RowId> out) const;

 private:
  struct Rep;
  explicit NgramHasher(std::unique_ptr<const Rep> rep);

  std::unique_ptr<const Rep> rep_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_NGRAM_HASHER_H_
