// ModelConfig: a model's config.json, read key by key with errors that name file and key.
//
// A value: copies share one immutable tree. Safe from any thread.
#ifndef ENGRAM_STORAGE_CHECKPOINT_MODEL_CONFIG_H_
#define ENGRAM_STORAGE_CHECKPOINT_MODEL_CONFIG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram {

class ModelConfig {
 public:
  // `file` only names the text in errors. DataLoss if it is not one JSON object.
  static absl::StatusOr<ModelConfig> Parse(std::string file, std::string text);

  // DIR/config.json. NotFound if the directory or the file is missing, InvalidArgument if
  // `directory` is not one; else as Parse and FileReader::Open.
  static absl::StatusOr<ModelConfig> Read(const std::string& directory);

  // The same file as text only, without a key and whatever its bytes are; a missing one (in a
  // directory that is there) has an empty text. For families that need no config.
  static absl::StatusOr<ModelConfig> ReadText(const std::string& directory);

  const std::string& file() const;
  const std::string& text() const;
  std::string model_type() const;  // empty if there is none

  // A key is a path: "text_config.engram_n_heads". A null counts as missing.
  bool Has(absl::string_view key) const;

  // The top level's keys, in order, but for those whose value is null.
  std::vector<std::string> Keys() const;

  // Whether the value says something: the key is there, and is neither false nor an empty string,
  // list or object.
  bool IsSet(absl::string_view key) const;

  // Empty if the key is missing or no string.
  std::string Text(absl::string_view key) const;

  // A whole number, or a list of them, each in low … high. InvalidArgument naming file, key and
  // value if it is missing, of another type (1.0 and true are), or out of bounds.
  absl::StatusOr<uint64_t> Unsigned(absl::string_view key, uint64_t low, uint64_t high) const;
  absl::StatusOr<std::vector<uint64_t>> UnsignedList(absl::string_view key, uint64_t low,
                                                     uint64_t high) const;
  // The same, where a lone number stands for a list of one.
  absl::StatusOr<std::vector<uint64_t>> UnsignedOrList(absl::string_view key, uint64_t low,
                                                       uint64_t high) const;

  // A number, whole or not, in low … high; errors as Unsigned.
  absl::StatusOr<double> Number(absl::string_view key, double low, double high) const;

  // false if the key is missing. InvalidArgument naming file and key if it is no boolean.
  absl::StatusOr<bool> Flag(absl::string_view key) const;

 private:
  struct Rep;
  explicit ModelConfig(std::shared_ptr<const Rep> rep) : rep_(std::move(rep)) {}

  std::shared_ptr<const Rep> rep_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_MODEL_CONFIG_H_
