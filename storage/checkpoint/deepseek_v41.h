// Family "deepseek-v4.1": DeepSeek-V4.1-Flash (`model_type` `deepseek_v41`).
//
// From config.json, under `text_config`: engram_layer_ids, engram_max_ngram_size,
// engram_vocab_size (the least size of a column), engram_n_heads, engram_head_dim,
// engram_pad_token_id, engram_compressed_vocab_size, and engram_num_embeddings, against which the
// layers' sizes are checked where it is there.
//
// A layer L is `layers.L.engram.embed.weight`, F8_E4M3 [rows, head_dim], and
// `layers.L.engram.embed.scale`, F8_E8M0 [rows, head_dim / 32]; a row as served is its values and
// then its scales, 256 + 8 bytes for the released model. rows is the sum of the layer's columns,
// whose sizes are primes (storage/table/addressing.h) given out in the order of engram_layer_ids.
#ifndef ENGRAM_STORAGE_CHECKPOINT_DEEPSEEK_V41_H_
#define ENGRAM_STORAGE_CHECKPOINT_DEEPSEEK_V41_H_

#include <memory>

#include "absl/status/statusor.h"
#include "storage/checkpoint/model_config.h"
#include "storage/checkpoint/row_source.h"
#include "storage/table/spec.h"

namespace engram {

bool MatchesDeepseekV41(const ModelConfig& config);

// The table that the config describes, but for name, version and checkpoint_digest; layers
// ascending by id. Pure. InvalidArgument, naming file and key, if a key is missing, ill-typed or
// impossible, or if sizes and engram_num_embeddings differ.
absl::StatusOr<TableSpec> DeepseekV41Spec(const ModelConfig& config);

// As OpenCheckpoint, for a checkpoint of this family.
absl::StatusOr<std::unique_ptr<RowSource>> OpenDeepseekV41(const ModelConfig& config,
                                                           const CheckpointOptions& options);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_DEEPSEEK_V41_H_
