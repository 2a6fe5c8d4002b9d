// TokenWorkload: row ids as a model would ask for them, made up from a table's description.
//
// A token needs one row of every column of every layer. Token t takes the t-th row of a random
// permutation of each column, so the tokens 0 … tokens() − 1 touch every row of every layer at
// least once; a skewed choice of tokens touches the rows as unevenly as text does.
// Not thread-safe. Takes 4 bytes of memory a row of the table: for tables made for trying out.
#ifndef ENGRAM_CLIENT_EXAMPLES_TOKEN_WORKLOAD_H_
#define ENGRAM_CLIENT_EXAMPLES_TOKEN_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "client/client.h"

namespace engram {

// One batch of whole forward steps, with the memory for its answer.
struct StepBatch {
  struct Layer {
    int32_t layer = 0;
    uint32_t row_bytes = 0;
    std::vector<uint32_t> ids;
    std::vector<std::byte> rows;  // ids.size() × row_bytes
    std::vector<uint8_t> tiers;   // ids.size()
  };
  std::vector<Layer> layers;

  // Requests that borrow from this batch: it stays where it is until their answers are there.
  LookupRequest Lookup(const TableDescription& table);
  PrefetchRequest Prefetch(const TableDescription& table) const;
};

class TokenWorkload {
 public:
  TokenWorkload(const TableDescription& table, uint64_t seed);

  size_t tokens() const { return tokens_; }

  // Tokens first … first + count − 1, without those past the end.
  StepBatch Cover(size_t first, size_t count) const;

  // `count` tokens drawn by a Zipf law with exponent 1.
  StepBatch Hot(size_t count);

 private:
  struct Layer {
    int32_t layer = 0;
    uint32_t row_bytes = 0;
    std::vector<std::vector<uint32_t>> columns;  // ids of each column, shuffled
  };

  StepBatch Make(const std::vector<size_t>& tokens) const;

  std::mt19937_64 random_;
  std::vector<Layer> layers_;
  size_t tokens_ = 0;  // as many as the longest column has rows
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_EXAMPLES_TOKEN_WORKLOAD_H_
