// Family "longcat": the n-gram embeddings of LongCat-Flash-Lite, and of LongCat-2.0 as far as it is
// known.
//
// From config.json: vocab_size, eos_token_id (a number or a list of one), hidden_size (which Lite
// must have), and
//
//   Lite  ngram_vocab_size_ratio  emb_neighbor_num  emb_split_num
//   2.0   oe_vocab_size_ratio     oe_neighbor_num   oe_split_num
//
// "auto" takes a model_type that begins with `longcat` if it is Lite's, `longcat_flash_ngram`, or
// the config has one of these ratios. What is verified is Lite's type with all keys of the first
// line and no key that begins with `oe_`; any other loads by --allow-unverified only.
// (LongCat-2.0's own config.json and tensors were not available.)
//
// Always refused, because the models then hash in ways that are not known or not supported here:
// both ratios at once; ngram_exclude_sp_token; a special_token_scope, or a list whose key ends in
// special_tokens_list or special_token_list, that is not empty; a text_vocab_size or
// vocab_size_text other than vocab_size (LongCat-Next, of type `longcat_next`, hashes with it).
//
// The table has one layer, 0, whose columns are the model's tables, one behind the other:
// (neighbours − 1) × splits of them, table i being `ngram_embeddings.embedders.I.weight`, of
// int(ratio × vocab_size + 2i + 1) rows, or `oe_embed_tokensI.weight`, which may have more rows:
// padding, which is not served. One more table than the config says is refused. Values are BF16,
// F16 or F32, of one dtype in all tables, hidden_size / tables of them a row; without a hidden_size
// a row is as long as the tensors say. F8_E4M3 is refused, because no scale to go with it is known.
//
// The hash is kPolynomial over raw ids, its pad 0, its boundary eos_token_id. Row ids are dense: a
// table's own id plus the rows of the tables before.
#ifndef ENGRAM_STORAGE_CHECKPOINT_LONGCAT_H_
#define ENGRAM_STORAGE_CHECKPOINT_LONGCAT_H_

#include <string>

#include "absl/status/statusor.h"
#include "storage/checkpoint/family.h"

namespace engram {

bool MatchesLongcat(const ModelConfig& config);

// As Family::spec. The row size is that of hidden_size / tables BF16 values, or without a
// hidden_size that of the model as released: 256, or 512 where the keys are LongCat-2.0's.
absl::StatusOr<TableSpec> LongcatSpec(const ModelConfig& config);

// As Family::open.
absl::StatusOr<LayerRows> OpenLongcat(const ModelConfig& config, const CheckpointOptions& options,
                                      CheckpointDir& directory, TableSpec& spec);

// As Family::unverified.
std::string UnverifiedLongcat(const ModelConfig& config);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_LONGCAT_H_
