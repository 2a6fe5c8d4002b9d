// The seam between checkpoints in general and one model family's way of writing them.
//
// A family knows its config's keys and its tensors' names, and gives a RowSource. A new one is a
// file of its own and one entry in SupportedFamilies' table; nothing else has to know of it.
// Pure functions but for `open`; safe from any thread.
#ifndef ENGRAM_STORAGE_CHECKPOINT_FAMILY_H_
#define ENGRAM_STORAGE_CHECKPOINT_FAMILY_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/checkpoint/model_config.h"
#include "storage/checkpoint/row_source.h"

namespace engram {

struct Family {
  const char* name;  // as in `engramctl load --model` and TableSpec::family
  // Whether `--model auto` takes this family for the config.
  bool (*matches)(const ModelConfig& config);
  // As OpenCheckpoint, whose config has been read.
  absl::StatusOr<std::unique_ptr<RowSource>> (*open)(const ModelConfig& config,
                                                     const CheckpointOptions& options);
};

absl::Span<const Family> SupportedFamilies();

// InvalidArgument if `model` is neither "auto" (or empty) nor a supported family; the text lists
// what is known, or, for a family that is known but not in this version, what is supported.
absl::Status CheckModelName(absl::string_view model);

// The family named, or for "auto" the one that matches. InvalidArgument as CheckModelName, or
// naming the config's model_type if no family matches it.
absl::StatusOr<const Family*> ChooseFamily(absl::string_view model, const ModelConfig& config);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_FAMILY_H_
