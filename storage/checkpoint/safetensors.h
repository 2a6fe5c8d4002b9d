// The header of a safetensors file: which tensor lies where, parsed from bytes alone.
//
// The format (https://github.com/huggingface/safetensors#format): 8 bytes, little-endian, the
// length of the header; the header, a JSON object of tensor name → {dtype, shape, data_offsets};
// the data, which `data_offsets` counts from. Stricter than JSON: no key twice, no NUL byte.
// Laxer than the official library in one thing: bytes that belong to no tensor are allowed.
//
// Pure functions and values; safe from any thread. Nothing here opens a file.
#ifndef ENGRAM_STORAGE_CHECKPOINT_SAFETENSORS_H_
#define ENGRAM_STORAGE_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace engram {

inline constexpr uint64_t kSafetensorsPrefixBytes = 8;
// The official library's bound.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct TensorInfo {
  std::string dtype;  // as written: "F8_E4M3"
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // bytes from the beginning of the file, not of the data
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }
  bool operator==(const TensorInfo&) const = default;
};

using TensorMap = std::map<std::string, TensorInfo>;

// Bits of one element; 0 for a dtype that is not known here.
uint32_t DtypeBits(absl::string_view dtype);

// `[384006168, 256]`
std::string FormatShape(const std::vector<uint64_t>& shape);

// The length of the header, from the file's first bytes (at least 8, unless the file is shorter).
// DataLoss naming `file` if it does not fit into `file_bytes` or the bound above.
absl::StatusOr<uint64_t> ParseSafetensorsPrefix(absl::string_view file, absl::string_view prefix,
                                                uint64_t file_bytes);

// The tensors of a file of `file_bytes` bytes whose header, of the length that the prefix says, is
// `header`. Of each tensor it is checked that its bytes lie in the file, are as many as shape and
// dtype need (an unknown dtype passes: the reader of the tensor refuses it), and
// belong to no other tensor. DataLoss naming `file`, the tensor and the value otherwise.
absl::StatusOr<TensorMap> ParseSafetensorsHeader(absl::string_view file, absl::string_view header,
                                                 uint64_t file_bytes);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_SAFETENSORS_H_
