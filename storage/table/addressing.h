// How many rows each column of a hashed n-gram table has.
//
// DeepSeek-V4.1-Flash: one prime a column, the first layers × orders × heads primes not below the
// base size, in layer → order → head order, none used twice; a layer's table is its columns one
// after the other. (The model's own code; base 16,000,000 gives 16,000,057 … 16,000,889, whose
// sums per layer are the config's `engram_num_embeddings`.)
//
// Pure functions, safe from any thread.
#ifndef ENGRAM_STORAGE_TABLE_ADDRESSING_H_
#define ENGRAM_STORAGE_TABLE_ADDRESSING_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/table/spec.h"

namespace engram {

// Exact for every uint64.
bool IsPrime(uint64_t value);

// The columns of each of `layers` layers, in order. Requires addressing.max_ngram_size in 2 … 16,
// heads in 1 … 256, base_size in 2 … 2^32 − 1, layers in 1 … kMaxLayers; InvalidArgument naming
// the value otherwise.
absl::StatusOr<std::vector<std::vector<ColumnSpec>>> PrimeColumns(const AddressingSpec& addressing,
                                                                  size_t layers);

}  // namespace engram

#endif  // ENGRAM_STORAGE_TABLE_ADDRESSING_H_
