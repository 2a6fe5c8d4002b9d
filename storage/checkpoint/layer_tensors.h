// What the families' openings of tensors have in common: checks that name file and tensor, and the
// few small tensors that are read at once.
//
// Those that read block on the drive. One thread at a time, like the CheckpointDir.
#ifndef ENGRAM_STORAGE_CHECKPOINT_LAYER_TENSORS_H_
#define ENGRAM_STORAGE_CHECKPOINT_LAYER_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/checkpoint/checkpoint_dir.h"
#include "storage/checkpoint/row_parts.h"
#include "storage/table/spec.h"

namespace engram {

// "FILE: tensor 'NAME' WHAT"
absl::Status BadTensor(const TensorRef& tensor, absl::string_view what);

// InvalidArgument naming both unless the tensor is of one of `dtypes` and of exactly this shape.
absl::Status CheckTensor(const TensorRef& tensor, absl::Span<const absl::string_view> dtypes,
                         const std::vector<uint64_t>& shape);

// Bytes of a row of a tensor, 1 … kMaxRowBytes. InvalidArgument if it is not two-dimensional, its
// dtype is not known, or its rows are no whole bytes, or too long.
absl::StatusOr<uint32_t> RowBytesOf(const TensorRef& tensor);

// "bf16[256]", of a tensor that RowBytesOf accepts.
std::string RowFormatOf(const TensorRef& tensor);

// The tensor as a part of rows, `bytes` of each.
RowPart PartOf(const TensorRef& tensor, uint32_t bytes);

// The row id at which each column begins.
std::vector<int64_t> OffsetsOf(absl::Span<const ColumnSpec> columns);

// InvalidArgument, naming it, if the checkpoint has a tensor `stem` N `.weight` with a number N of
// `count` or more: it has more parts than the config says, so the config is another model's.
absl::Status CheckNoMore(const CheckpointDir& directory, const std::string& stem, uint64_t count);

// Compares an I64 tensor, if the checkpoint has one of exactly this name, with what `expected`
// should be. InvalidArgument naming tensor, index and both values at the first difference; errors
// of CheckpointDir::Find and FileReader::Read.
absl::Status CheckStored(CheckpointDir& directory, const std::string& name,
                         absl::Span<const int64_t> expected);

// The one value of a BF16 or F32 tensor of shape [1]. InvalidArgument naming the tensor if it is
// of another kind, or if the value is not finite and greater than 0.
absl::StatusOr<double> ReadScale(const TensorRef& tensor);

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_LAYER_TENSORS_H_
