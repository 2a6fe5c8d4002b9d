#include "tests/bench/resident_array.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/dram/segment.h"

namespace engram::bench {
namespace {

constexpr size_t kLine = 64;

// With the size known while it is compiled, as the daemon's own gather has it for known models.
template <size_t kRowBytes>
void GatherOf(const std::byte* rows, absl::Span<const uint32_t> ids, std::byte* out,
              size_t distance, size_t row_bytes) {
  const size_t size = kRowBytes == 0 ? row_bytes : kRowBytes;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + distance < ids.size()) {
      const std::byte* const next = rows + ids[i + distance] * size;
      const std::byte* const begin = next - reinterpret_cast<uintptr_t>(next) % kLine;
      // Rows begin at multiples of 8.
      for (size_t at = 0; at < size + kLine - 8; at += kLine) __builtin_prefetch(begin + at, 0, 2);
    }
    std::memcpy(out + i * size, rows + ids[i] * size, size);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResidentArray>> ResidentArray::Create(const std::string& shm_dir,
                                                                     uint64_t rows,
                                                                     uint32_t row_bytes) {
  std::unique_ptr<ResidentArray> array(new ResidentArray());
  ENGRAM_ASSIGN_OR_RETURN(array->store_, SegmentStore::Open(shm_dir, "array"));
  const uint64_t page = std::max<uint64_t>(array->store_->page_bytes(), dram::kHugePageBytes);
  const uint64_t bytes = (dram::kHeaderBytes + rows * row_bytes + page - 1) / page * page;
  ENGRAM_ASSIGN_OR_RETURN(array->segment_, array->store_->Create(dram::SegmentHeader{}, bytes));
  array->rows_ = array->segment_->data() + dram::kHeaderBytes;
  array->row_bytes_ = row_bytes;
  return array;
}

ResidentArray::~ResidentArray() {
  if (segment_ != nullptr) segment_->Discard();
}

std::string ResidentArray::Pages() const {
  return absl::StrCat(FormatSize(segment_->huge_bytes()), " of ", FormatSize(segment_->bytes()),
                      " in huge pages");
}

void ResidentArray::Gather(absl::Span<const uint32_t> ids, std::byte* out, size_t distance) const {
  switch (row_bytes_) {
    case 264:
      return GatherOf<264>(rows_, ids, out, distance, row_bytes_);
    default:
      return GatherOf<0>(rows_, ids, out, distance, row_bytes_);
  }
}

}  // namespace engram::bench
