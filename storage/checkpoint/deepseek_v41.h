// Family "deepseek-v4.1": DeepSeek-V4.1-Flash (`model_type` `deepseek_v41`).
//
// From config.json, under `text_config`: engram_layer_ids, engram_max_ngram_size,
// engram_vocab_size (the least size of a column), engram_n_heads, engram_head_dim,
// engram_pad_token_id (a compressed id), engram_compressed_vocab_size, and engram_num_embeddings,
// against which the layers' sizes are checked where it is there.
//
// A layer L is `layers.L.engram.embed.weight`, F8_E4M3 [rows, head_dim], and
// `layers.L.engram.embed.scale`, F8_E8M0 [rows, head_dim / 32]; a row as served is its values and
// then its scales, 256 + 8 bytes for the released model. rows is the sum of the layer's columns,
// whose sizes are primes given out in the order of engram_layer_ids. The hash is kXorMultiply;
// layer L's multipliers are numpy's with the seed 10007 × L (storage/table/addressing.h).
#ifndef ENGRAM_STORAGE_CHECKPOINT_DEEPSEEK_V41_H_
#define ENGRAM_STORAGE_CHECKPOINT_DEEPSEEK_V41_H_

#include "absl/status/statusor.h"
#include "storage/checkpoint/family.h"

namespace engram {

// The digest of the released tokenizer's map, as published with the model's ports.
inline constexpr TokenMapRule kDeepseekV41TokenMap = {
    .raw_pad = false,
    .compressed_vocab_size = 99'092,
    .digest = "c60a86322ec17b4142bfef3c57a8d81fb428550cdf487f88a4320cb59fe46481"};

bool MatchesDeepseekV41(const ModelConfig& config);

// As Family::spec; InvalidArgument also if sizes and engram_num_embeddings differ.
absl::StatusOr<TableSpec> DeepseekV41Spec(const ModelConfig& config);

// As Family::open.
absl::StatusOr<LayerRows> OpenDeepseekV41(const ModelConfig& config,
                                          const CheckpointOptions& options,
                                          CheckpointDir& directory, TableSpec& spec);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_DEEPSEEK_V41_H_
