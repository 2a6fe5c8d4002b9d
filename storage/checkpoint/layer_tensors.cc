#include "storage/checkpoint/layer_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

// The format's integers and floats are little-endian, as is every machine that this runs on.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

absl::StatusOr<absl::Span<const std::byte>> ReadAll(const TensorRef& tensor,
                                                    AlignedBuffer& buffer) {
  return tensor.shard->file->Read(tensor.info->begin, tensor.info->bytes(), buffer);
}

}  // namespace

absl::Status BadTensor(const TensorRef& tensor, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(tensor.shard->file->path(), ": tensor '", tensor.name, "' ", what));
}

absl::Status CheckTensor(const TensorRef& tensor, absl::Span<const absl::string_view> dtypes,
                         const std::vector<uint64_t>& shape) {
  bool good = false;
  for (const absl::string_view dtype : dtypes) good = good || tensor.info->dtype == dtype;
  if (good && tensor.info->shape == shape) return absl::OkStatus();
  return BadTensor(tensor, absl::StrCat("is ", tensor.info->dtype, " ",
                                        FormatShape(tensor.info->shape), "; the config asks for ",
                                        absl::StrJoin(dtypes, " or "), " ", FormatShape(shape)));
}

absl::StatusOr<uint32_t> RowBytesOf(const TensorRef& tensor) {
  const TensorInfo& info = *tensor.info;
  const std::string is = absl::StrCat("is ", info.dtype, " ", FormatShape(info.shape));
  const uint64_t bits = DtypeBits(info.dtype);
  if (bits == 0) return BadTensor(tensor, absl::StrCat(is, ", a dtype that is not known"));
  if (info.shape.size() != 2) {
    return BadTensor(tensor, absl::StrCat(is, "; a table of rows has two dimensions"));
  }
  // Not bits × columns first: without rows the number of columns is not bounded by the file.
  if (info.shape[1] == 0 || info.shape[1] > uint64_t{kMaxRowBytes} * 8 ||
      info.shape[1] * bits > uint64_t{kMaxRowBytes} * 8) {
    return BadTensor(tensor,
                     absl::StrCat(is, ", whose rows are not 1 to ", kMaxRowBytes, " bytes long"));
  }
  if (info.shape[1] * bits % 8 != 0) {
    return BadTensor(tensor, absl::StrCat(is, ", whose rows are no whole bytes"));
  }
  return static_cast<uint32_t>(info.shape[1] * bits / 8);
}

std::string RowFormatOf(const TensorRef& tensor) {
  return absl::StrCat(absl::AsciiStrToLower(tensor.info->dtype), "[", tensor.info->shape[1], "]");
}

RowPart PartOf(const TensorRef& tensor, uint32_t bytes) {
  return {tensor.shard->file.get(), tensor.info->begin, bytes, tensor.name};
}

std::vector<int64_t> OffsetsOf(absl::Span<const ColumnSpec> columns) {
  std::vector<int64_t> offsets;
  int64_t offset = 0;
  for (const ColumnSpec& column : columns) {
    offsets.push_back(offset);
    offset += static_cast<int64_t>(column.rows);
  }
  return offsets;
}

absl::Status CheckNoMore(const CheckpointDir& directory, const std::string& stem, uint64_t count) {
  const WeightMap& weights = directory.weights();
  for (auto entry = weights.lower_bound(stem);
       entry != weights.end() && absl::StartsWith(entry->first, stem); ++entry) {
    absl::string_view number = absl::string_view(entry->first).substr(stem.size());
    if (!absl::ConsumeSuffix(&number, ".weight") || number.empty()) continue;
    if (!std::all_of(number.begin(), number.end(), absl::ascii_isdigit)) continue;
    uint64_t index = 0;
    if (absl::SimpleAtoi(number, &index) && index < count) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(directory.source(), ": there is a tensor '", entry->first,
                     "', but by config.json there are ", count,
                     ", numbered from 0; put the config there that belongs to these weights"));
  }
  return absl::OkStatus();
}

absl::Status CheckStored(CheckpointDir& directory, const std::string& name,
                         absl::Span<const int64_t> expected) {
  if (directory.weights().count(name) == 0) return absl::OkStatus();
  ENGRAM_ASSIGN_OR_RETURN(const TensorRef tensor, directory.Find(name));
  ENGRAM_RETURN_IF_ERROR(CheckTensor(tensor, {"I64"}, {expected.size()}));
  AlignedBuffer buffer;
  ENGRAM_ASSIGN_OR_RETURN(const auto bytes, ReadAll(tensor, buffer));
  for (size_t i = 0; i < expected.size(); ++i) {
    int64_t stored = 0;
    std::memcpy(&stored, bytes.data() + i * sizeof stored, sizeof stored);
    if (stored == expected[i]) continue;
    return BadTensor(
        tensor, absl::StrCat("holds ", stored, " at index ", i, ", but the config's numbers give ",
                             expected[i], "; rows would be looked up in the wrong places"));
  }
  return absl::OkStatus();
}

absl::StatusOr<double> ReadScale(const TensorRef& tensor) {
  ENGRAM_RETURN_IF_ERROR(CheckTensor(tensor, {"BF16", "F32"}, {1}));
  AlignedBuffer buffer;
  ENGRAM_ASSIGN_OR_RETURN(const auto bytes, ReadAll(tensor, buffer));
  // A BF16 is the upper half of a float.
  uint32_t bits = 0;
  const size_t size = bytes.size();
  std::memcpy(reinterpret_cast<std::byte*>(&bits) + (sizeof bits - size), bytes.data(), size);
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  if (std::isfinite(value) && value > 0) return double{value};
  return BadTensor(tensor, absl::StrCat("holds the scale ", value,
                                        "; a scale is a finite number greater than 0"));
}

}  // namespace engram
