#include "storage/dram/fit_shape.h"

#include <algorithm>
#include <limits>
#include <optional>

namespace engram::dram {
namespace {

constexpr uint64_t kLargeSegment = uint64_t{1} << 30;
constexpr uint64_t kMostPerSegment = std::numeric_limits<uint32_t>::max();
// The bucket's segments of a layer of several (HeapBytes).
constexpr uint64_t kBucketBytes = 2 * kBuckets * sizeof(uint16_t);

// Nothing if the result needs more than 64 bits.
std::optional<uint64_t> Product(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}
std::optional<uint64_t> Sum(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// The size wanted of the segments of a tier of `bytes` bytes: whole huge pages, 2^57 bytes at most.
uint64_t SegmentBytesFor(uint64_t bytes) {
  uint64_t size = bytes / 64;
  if (size > kLargeSegment) size = std::max(bytes / 256, kLargeSegment);
  return (size + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

// TotalBytes() and HeapBytes(), of a shape whose segments' own bytes are a number.
std::optional<uint64_t> AllBytes(const LayerShape& shape) {
  const auto full = Product(shape.SegmentBytes(0), shape.segments - 1);
  if (!full.has_value()) return std::nullopt;
  const auto total = Sum(*full, shape.SegmentBytes(shape.segments - 1));
  return total.has_value() ? Sum(*total, shape.HeapBytes()) : std::nullopt;
}

// The layout that has a place for each row; nothing if there is none within the budget.
std::optional<LayerShape> FitResident(uint64_t budget_bytes, LayerShape shape) {
  shape.mode = Mode::kResident;
  if (shape.layer_rows > kDeadPosition) return std::nullopt;  // more than there are ids
  const uint64_t stride = shape.RowStride();
  const auto row_bytes = Product(shape.layer_rows, stride);
  if (!row_bytes.has_value() || *row_bytes > budget_bytes) return std::nullopt;
  // A bit and a slot a row, behind a header; up to two lines are lost to alignment.
  const uint64_t size = std::max({SegmentBytesFor(*row_bytes), shape.page_bytes, 2 * kPageBytes});
  const uint64_t rows = (size - kHeaderBytes - 2 * kLineBytes) * 8 / (8 * stride + 1);
  shape.per_segment = static_cast<uint32_t>(std::clamp<uint64_t>(rows, 1, shape.layer_rows));
  const uint64_t segments = (shape.layer_rows + shape.per_segment - 1) / shape.per_segment;
  if (segments > kMaxSegments) return std::nullopt;
  shape.segments = static_cast<uint32_t>(segments);
  const auto bytes = AllBytes(shape);
  if (!bytes.has_value() || *bytes > budget_bytes) return std::nullopt;
  return shape;
}

LayerShape FitCache(uint64_t budget_bytes, LayerShape shape) {
  shape.mode = Mode::kCache;
  if (budget_bytes >= 2 * kHugePageBytes) budget_bytes -= kBucketBytes;
  // So many segments, each as large as it can be: a small tier is one.
  const uint64_t wanted = std::max(SegmentBytesFor(budget_bytes), shape.page_bytes);
  const uint64_t segments = std::clamp<uint64_t>(budget_bytes / wanted, 1, kMaxSegments);
  const uint64_t each = budget_bytes / segments;
  const uint64_t unit =
      each >= 16 * kHugePageBytes ? std::max(kHugePageBytes, shape.page_bytes) : shape.page_bytes;
  const uint64_t size = each / unit * unit;
  if (size < kHeaderBytes) return shape;
  const uint64_t sets = (size - kHeaderBytes) / (shape.SetBytes() + kLineBytes);
  shape.per_segment = static_cast<uint32_t>(std::min(sets, kMostPerSegment));
  shape.segments = sets == 0 ? 0 : static_cast<uint32_t>(segments);
  return shape;
}

}  // namespace

LayerShape FitShape(uint64_t budget_bytes, uint32_t row_bytes, uint64_t layer_rows,
                    uint64_t page_bytes) {
  const LayerShape shape{
      .row_bytes = row_bytes, .layer_rows = layer_rows, .page_bytes = page_bytes};
  if (const auto resident = FitResident(budget_bytes, shape)) return *resident;
  return FitCache(budget_bytes, shape);
}

}  // namespace engram::dram
