// Family "generic": tables whose rows are asked for by id, out of any safetensors checkpoint
// (Gemma 4's per-layer embeddings, whose row id is the token id, for one).
//
// The operator names the tensors; each is a layer, 0, 1, … in the order given. A tensor is
// [rows, columns] of any dtype whose rows are whole bytes, at most kMaxRowBytes; row_format says
// dtype and columns ("bf16[256]"), one for each layer, in order and separated by ", ", if they
// differ. No config.json is needed; the bytes of one that is there, JSON or not, count for the
// checkpoint's digest only.
// There is no addressing.
#ifndef ENGRAM_STORAGE_CHECKPOINT_GENERIC_H_
#define ENGRAM_STORAGE_CHECKPOINT_GENERIC_H_

#include "absl/status/statusor.h"
#include "storage/checkpoint/family.h"

namespace engram {

// As Family::open. InvalidArgument, naming the tensor, if one is named twice, or is none of the
// kind above.
absl::StatusOr<LayerRows> OpenGeneric(const ModelConfig& config, const CheckpointOptions& options,
                                      CheckpointDir& directory, TableSpec& spec);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_GENERIC_H_
