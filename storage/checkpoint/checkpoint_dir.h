// CheckpointDir: which file of a checkpoint directory holds which tensor.
//
// By `model.safetensors.index.json` where there is one; else by the headers of
// `model.safetensors`, or of every `*.safetensors` file if that is missing too. With an index only
// the shards of the tensors that are asked for need to be there.
//
// Open and Find block on the drive. One thread at a time; the shards handed out may be read from
// many threads, and live as long as the CheckpointDir.
#ifndef ENGRAM_STORAGE_CHECKPOINT_CHECKPOINT_DIR_H_
#define ENGRAM_STORAGE_CHECKPOINT_CHECKPOINT_DIR_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/checkpoint/file_reader.h"
#include "storage/checkpoint/model_config.h"
#include "storage/checkpoint/safetensors.h"

namespace engram {

// Tensor name → the shard (a file name in the same directory) that holds it.
using WeightMap = std::map<std::string, std::string>;

// Reads the text of an index; `file` names it in errors. DataLoss if it is not JSON.
// InvalidArgument, naming the tensor, if `weight_map` is not an object of plain file names: a
// checkpoint must not point out of its directory.
absl::StatusOr<WeightMap> ParseSafetensorsIndex(absl::string_view file, absl::string_view text);

// One safetensors file, open, its header checked.
struct Shard {
  std::string name;
  std::unique_ptr<FileReader> file;
  TensorMap tensors;
  std::string header_digest;  // of the header's bytes
};

struct TensorRef {
  std::string name;  // as in the shard
  const Shard* shard = nullptr;
  const TensorInfo* info = nullptr;
};

class CheckpointDir {
 public:
  // NotFound: no index and no safetensors file in `directory`. InvalidArgument: a tensor lies in
  // two shards, or as ParseSafetensorsIndex. DataLoss: a damaged file. Each names the file.
  static absl::StatusOr<std::unique_ptr<CheckpointDir>> Open(const std::string& directory);

  // All tensors and their shards, and the file or pattern which says so, for errors.
  const WeightMap& weights() const { return weight_map_; }
  const std::string& source() const { return source_; }

  // The name under which the checkpoint has tensor `name`: `name` itself, else the only name that
  // ends in `.name` (`model.language_model.name`). InvalidArgument if there is none, or several.
  absl::StatusOr<std::string> Resolve(const std::string& name) const;

  // The tensor of exactly this name. Opens its shard if no earlier call did. InvalidArgument: no
  // such tensor. NotFound, naming shard and tensor: the shard is missing. DataLoss: the shard is
  // damaged, or does not hold the tensor.
  absl::StatusOr<TensorRef> Find(const std::string& name);

  // Shards that Find has opened, by name.
  const std::map<std::string, std::unique_ptr<const Shard>>& shards() const { return shards_; }

 private:
  explicit CheckpointDir(std::string directory) : directory_(std::move(directory)) {}

  absl::Status Scan();
  absl::StatusOr<std::unique_ptr<const Shard>> OpenShard(const std::string& name) const;

  const std::string directory_;
  std::string source_;  // what weight_map_ comes from, for errors
  WeightMap weight_map_;
  std::map<std::string, std::unique_ptr<const Shard>> shards_;
};

// Names a checkpoint: 32 hex digits over the bytes of config.json and, of each shard opened so
// far, its name, size, modification time in ns and header. It is taken in milliseconds at any
// size, because it reads no rows.
//
// It notices another config, layout, tensor or set of shards, and any ordinary write to a shard
// (which changes the time). It does not notice rows changed by something that puts size and time
// back (of which a load that is taken up, or made once more, notices most: BulkWriter::CheckResumed
// and server/jobs/load_job.cc), nor bits that rot on the drive. A copy that does not keep times
// (`cp` without `-p`) counts as another checkpoint; another directory, owner or index file does
// not.
//
// `also` is what else makes the rows or their addressing: the digest of a token map, the names of
// tensors that the operator chose. Where there is nothing of the kind the digest is as without it.
std::string CheckpointDigest(const ModelConfig& config, const CheckpointDir& directory,
                             absl::Span<const std::string> also = {});

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_CHECKPOINT_DIR_H_
