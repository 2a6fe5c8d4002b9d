// The numbers of a hashed n-gram table that a model's config only implies: how many rows each
// column has, and the multipliers of the hash. ngram_hasher.h makes row ids of them.
//
// Each formula is one model family's own code; a family names the ones it uses
// (storage/checkpoint). Pure functions, safe from any thread. InvalidArgument naming the value if a
// parameter is out of the bounds stated.
#ifndef ENGRAM_STORAGE_TABLE_ADDRESSING_H_
#define ENGRAM_STORAGE_TABLE_ADDRESSING_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/table/spec.h"

namespace engram {

inline constexpr int32_t kMaxNgramSize = 16;
inline constexpr int32_t kMaxHeads = 256;
// From one layer's seed to the next, in the code of every model that draws its multipliers.
inline constexpr uint64_t kLayerSeedStep = 10007;
inline constexpr uint64_t kMaxColumns = 4096;  // of all layers; bounds the search for primes
inline constexpr int64_t kMaxVocabulary = 0x7FFFFFFF;  // token ids are int32

// Exact for every uint64.
bool IsPrime(uint64_t value);

// The columns of each of `layers` layers: the first primes not below base_size, in layer → order →
// head order, none used twice. DeepSeek-V4.1-Flash (base 16,000,000 gives 16,000,057 … 16,000,889,
// whose sums per layer are the config's `engram_num_embeddings`) and Qwen3.8's n-gram PLE.
// Requires max_ngram_size in 2 … kMaxNgramSize, heads in 1 … kMaxHeads, base_size in
// 2 … kMaxLayerRows, layers in 1 … kMaxLayers, and at most kMaxColumns columns.
absl::StatusOr<std::vector<std::vector<ColumnSpec>>> PrimeColumns(const AddressingSpec& addressing,
                                                                  size_t layers);

// The same where every (layer, order) starts again at its order's size: each head takes the next
// prime not below it that no column of any layer has. `sizes` holds one number for each order from
// 2 on. DeepSeek's Engram demo. Bounds as above.
absl::StatusOr<std::vector<std::vector<ColumnSpec>>> PrimeColumnsByOrder(
    absl::Span<const uint64_t> sizes, int32_t heads, size_t layers);

// Column i = (order − 2) × heads + head has int(ratio × vocab_size + 2i + 1) rows, in the doubles
// of the model's own code. LongCat. Requires orders and heads as above, vocab_size in 1 … 2^31 − 1,
// and columns of 1 … kMaxLayerRows rows.
absl::StatusOr<std::vector<ColumnSpec>> RatioColumns(double ratio, int64_t vocab_size,
                                                     int32_t max_ngram_size, int32_t heads);

// 2v + 1 for `count` values v, uniform below (INT64_MAX / vocab_size) / 2, of numpy's
// default_rng(seed).integers(…, dtype=int64). DeepSeek-V4.1-Flash, with seed 10007 × layer id, and
// the demo, with its own seed added. Requires vocab_size in 1 … 2^31 − 1, count in
// 1 … kMaxNgramSize.
absl::StatusOr<std::vector<int64_t>> NumpyMultipliers(uint64_t seed, int64_t vocab_size,
                                                      int32_t count);

// 2v + 1 for `count` values v = splitmix64(seed + 10007 × index + G × (i + 1)) modulo the same
// bound, G being splitmix64's own increment, added once more inside. Qwen3.8's n-gram PLE; `index`
// is the layer's position in the config's list. Bounds as above.
absl::StatusOr<std::vector<int64_t>> SplitMixMultipliers(uint64_t seed, uint64_t index,
                                                         int64_t vocab_size, int32_t count);

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_ADDRESSING_H_
