// Family "engram-demo": DeepSeek's open Engram demo, the module of arXiv 2601.07372.
//
// The demo keeps its numbers in code and has no config.json. Ours is that code's names at top
// level:
//
//   {"model_type": "engram_demo", "engram_vocab_size": [646400, 646400], "max_ngram_size": 3,
//    "n_embed_per_ngram": 512, "n_head_per_ngram": 8, "layer_ids": [1, 15], "pad_id": 2, "seed": 0,
//    "compressed_vocab_size": 98627}
//
// engram_vocab_size has one number for each order from 2 on, the least size of its columns;
// compressed_vocab_size is what the tokenizer compresses to (98,627 for DeepSeek-V3's). pad_id is
// the tokenizer's own id: with a tokenizer.json beside the config the pad is the compressed id that
// it maps to; without one the number is taken as a compressed id, and is refused if it is none.
//
// A layer is one tensor, `multi_head_embedding.embedding.weight` [rows, n_embed_per_ngram /
// n_head_per_ngram] of BF16, F16 or F32, the same in all layers; a row as served is a row of it,
// and row_format says which ("bf16[64]"). F8_E4M3 is refused, because no scale to go with it is
// known. `multi_head_embedding.offsets`, I64, is checked where it is there. The module has no
// prefix of its own, so layer L's is the one under a path with the components `layers.L` (the name
// ends in `layers.L.….multi_head_embedding.embedding.weight`); if the config has just one layer and
// no name has these, the only such tensor under no `layers.N` at all.
//
// Columns are primes from each order's size on, none used twice; the hash is kXorMultiply with
// numpy's multipliers for the seed `seed` + 10007 × L (storage/table/addressing.h).
#ifndef ENGRAM_STORAGE_CHECKPOINT_ENGRAM_DEMO_H_
#define ENGRAM_STORAGE_CHECKPOINT_ENGRAM_DEMO_H_

#include "absl/status/statusor.h"
#include "storage/checkpoint/family.h"

namespace engram {

inline constexpr TokenMapRule kEngramDemoTokenMap = {
    .raw_pad = true, .compressed_vocab_size = 0, .digest = ""};

bool MatchesEngramDemo(const ModelConfig& config);

// As Family::spec. The row size is that of BF16. pad_id is the config's number, which may be past
// the compressed ids until a token map is applied.
absl::StatusOr<TableSpec> EngramDemoSpec(const ModelConfig& config);

// As Family::open.
absl::StatusOr<LayerRows> OpenEngramDemo(const ModelConfig& config,
                                         const CheckpointOptions& options, CheckpointDir& directory,
                                         TableSpec& spec);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_ENGRAM_DEMO_H_
