// Traces from files: row ids as they are, or the rows of one layer that token ids ask for.
//
// Several files are read in turns, a block of each, as if their readers were served at once; each
// keeps its own order. Interleave makes other turns of them. All files are held in memory. One
// thread at a time.
#ifndef ENGRAM_TESTS_BENCH_TRACE_FILES_H_
#define ENGRAM_TESTS_BENCH_TRACE_FILES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/table/ids.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"

namespace engram::bench {

// Which rows tokens ask for.
struct TokenRows {
  TokenMap map;
  NgramHasher hasher;
  uint64_t rows = 0;  // of the layer
};
// DeepSeek-V4.1-Flash's first layer, at its full size, with the tokenizer.json of this directory.
// As ReadTokenMap.
absl::StatusOr<TokenRows> DeepseekTokenRows(const std::string& directory);

class TraceFiles {
 public:
  // Little-endian uint32, 4294967295 for none. With `tokens` (which outlives the object) they are
  // token ids, else row ids. NotFound, naming the file; InvalidArgument: a token that the map does
  // not have.
  static absl::StatusOr<TraceFiles> Open(const std::vector<std::string>& paths,
                                         const TokenRows* tokens);

  // Replays documents (what lies between ids of none) as a server of `sequences` of them at once
  // would: each has its turn of `turn` ids, and one that ends makes room for the next in the files'
  // order. Requires both > 0.
  void Interleave(size_t sequences, size_t turn);

  size_t blocks() const { return blocks_.size(); }
  // The rows of this block, in order; valid until the next call.
  absl::Span<const uint32_t> Rows(size_t block);
  // At most.
  uint64_t RowsPerBlock() const;
  // All row ids are below.
  uint64_t ids() const { return ids_; }

 private:
  struct Block {
    size_t file = 0;
    size_t first = 0;
    size_t count = 0;
  };

  const TokenRows* tokens_ = nullptr;
  std::vector<std::vector<int32_t>> files_;  // token ids are compressed
  std::vector<Block> blocks_;
  size_t block_ids_;
  uint64_t ids_ = 0;
  std::vector<RowId> hashed_;
  std::vector<uint32_t> rows_;
};

}  // namespace engram::bench

#endif  // ENGRAM_TESTS_BENCH_TRACE_FILES_H_
