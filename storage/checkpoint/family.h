// The seam between checkpoints in general and one model family's way of writing them.
//
// A family knows its config's keys and its tensors' names. A new one is a file of its own and one
// entry in SupportedFamilies' table; nothing else has to know of it.
// Pure functions but for `open` and ReadModel; safe from any thread.
#ifndef ENGRAM_STORAGE_CHECKPOINT_FAMILY_H_
#define ENGRAM_STORAGE_CHECKPOINT_FAMILY_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/checkpoint/checkpoint_dir.h"
#include "storage/checkpoint/model_config.h"
#include "storage/checkpoint/row_source.h"
#include "storage/checkpoint/table_source.h"
#include "storage/table/spec.h"
#include "storage/table/token_map.h"

namespace engram {

// What a family knows of its models' token maps.
struct TokenMapRule {
  // Whether the config's pad is a raw id, whose compressed id then is the table's. Otherwise the
  // config says the compressed id, and the map has to keep that one as it is.
  bool raw_pad = false;
  // The map that is known: of so many compressed ids, and then of this sha256, however many raw
  // ids it has. Empty digest: none is.
  int64_t compressed_vocab_size = 0;
  absl::string_view digest;
};

struct Family {
  const char* name;  // as in `engramctl load --model` and TableSpec::family
  // Whether `--model auto` takes this family for the config; null: only by name.
  bool (*matches)(const ModelConfig& config);
  // The table that the config describes, but for name, version, checkpoint_digest, the token map
  // and what only the tensors say (row_scale; where they may be of several dtypes the row size is
  // that of the model as released). Pure, and of bounded work for any config. InvalidArgument,
  // naming file and key, if a key is missing, ill-typed or impossible. Null if the config says
  // nothing of the table (generic): the operator then names tensors.
  absl::StatusOr<TableSpec> (*spec)(const ModelConfig& config);
  // Finds the tensors behind each layer, checks them against `spec`, which is what the function
  // above gave for the config (empty if that is null), and sets in it what only they say. Errors as
  // OpenCheckpoint.
  absl::StatusOr<LayerRows> (*open)(const ModelConfig& config, const CheckpointOptions& options,
                                    CheckpointDir& directory, TableSpec& spec);
  // Why the config's model needs --allow-unverified: what of it no test vector has proved. Empty if
  // all of it is proved. Null if that is so for every config.
  std::string (*unverified)(const ModelConfig& config);
  // Of families that hash compressed ids.
  TokenMapRule token_map;
};

absl::Span<const Family> SupportedFamilies();

// InvalidArgument if `model` is neither "auto" (or empty) nor a supported family; the text lists
// what is supported.
absl::Status CheckModelName(absl::string_view model);

// The family named, or for "auto" the one that matches. InvalidArgument as CheckModelName, or
// naming the config's model_type if no family matches it.
absl::StatusOr<const Family*> ChooseFamily(absl::string_view model, const ModelConfig& config);

// FailedPrecondition, with the reason and the flag, if the family finds something unverified in the
// config and `allow_unverified` is false.
absl::Status CheckVerified(const Family& family, const ModelConfig& config, bool allow_unverified);

// Makes `map`, which `file` gave, part of `spec`, a table of this family: pad id, size, digest.
// InvalidArgument, naming file and values, if the map has not as many compressed ids as the spec
// says, or treats the pad in another way than the family's. FailedPrecondition if the family knows
// another map of so many compressed ids and `allow_unverified` is false.
absl::Status ApplyTokenMap(const Family& family, const TokenMap& map, absl::string_view file,
                           bool allow_unverified, TableSpec& spec);

// What a model's directory says of addressing, without its weights.
struct ModelAddressing {
  TableSpec spec;  // as Family::spec gives it, with the token map's part
  // Of DIR/tokenizer.json: there if the family hashes compressed ids and the file was read.
  std::optional<TokenMap> map;
};

// Whether a caller has raw ids to hash, or compressed ones only.
enum class TokenIds { kRaw, kCompressed };

// Reads config.json and, where its family hashes compressed ids, tokenizer.json if there is one;
// for kCompressed only where the config's pad is a raw id, which the map alone can turn into the
// table's. NotFound: the directory or config.json is missing. Errors of ChooseFamily,
// CheckVerified, Family::spec, ReadTokenMap and ApplyTokenMap. InvalidArgument for a family without
// addressing, or if a raw pad is no compressed id and there is no tokenizer.json.
absl::StatusOr<ModelAddressing> ReadModel(const std::string& directory, absl::string_view model,
                                          bool allow_unverified, TokenIds ids = TokenIds::kRaw);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_FAMILY_H_
