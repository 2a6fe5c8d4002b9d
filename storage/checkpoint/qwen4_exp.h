// Family "qwen4-exp": the n-gram per-layer embedding of Qwen3.8-Flash-Next. "auto" takes a
// `model_type` that begins with `qwen4_exp`, of the config or of its text_config. What is verified
// is `qwen4_exp`, and in text_config, whose type counts where it has one, `qwen4_exp_text` too; any
// other loads by --allow-unverified only.
//
// From config.json, each under `text_config` or else at top level: ngram_size, heads_per_ngram,
// ple_layer_ids, ple_embed_dim (all columns of a position together), ngram_vocab_size_base,
// make_ngram_vocab_size_divisible_by, split_ngram_parts, vocab_size, eos_token_id (a number or a
// list, whose first counts), seed (1234 if absent).
//
// ple_layer_ids counts layers from one; a table's layer has the config's number, and its tensors
// lie one below: layer 2 is `layers.1.ple.ple_embedding.ngram_embedding.shard_N.weight`, N = 0 …
// split_ngram_parts − 1, each [rows / split_ngram_parts, ple_embed_dim / columns], one behind the
// other. A shard past these is refused. rows is the sum of the columns rounded up to a multiple of
// make_ngram_vocab_size_divisible_by: the rows past the columns are never hashed to, but are in the
// checkpoint and are served by id. Values are BF16, or F8_E4M3 with one scale for the whole layer,
// `….ngram_embedding.weight_scale` (BF16 or F32, [1]), which becomes LayerSpec::row_scale; without
// it F8_E4M3 is refused, because the values alone look right and mean nothing.
//
// Columns are primes given out in the order of ple_layer_ids; the hash is kXorMultiply over raw ids
// with splitmix64's multipliers (storage/table/addressing.h), pad and boundary both being
// eos_token_id. `ple_embedding.{layer_multipliers,ngram_heads_vocab_sizes,ngram_heads_offsets}`,
// I64, are checked against these where they are there.
#ifndef ENGRAM_STORAGE_CHECKPOINT_QWEN4_EXP_H_
#define ENGRAM_STORAGE_CHECKPOINT_QWEN4_EXP_H_

#include <string>

#include "absl/status/statusor.h"
#include "storage/checkpoint/family.h"

namespace engram {

bool MatchesQwen4Exp(const ModelConfig& config);

// As Family::spec. The row size is that of BF16.
absl::StatusOr<TableSpec> Qwen4ExpSpec(const ModelConfig& config);

// As Family::open.
absl::StatusOr<LayerRows> OpenQwen4Exp(const ModelConfig& config, const CheckpointOptions& options,
                                       CheckpointDir& directory, TableSpec& spec);

// As Family::unverified.
std::string UnverifiedQwen4Exp(const ModelConfig& config);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_QWEN4_EXP_H_
