// RowParts: rows whose bytes come from one or more tensors, laid one behind the other.
//
// A quantised table keeps values and scales in tensors of their own; a served row is both. Each
// part is a region of a file in which row r lies at offset + r × bytes.
//
// Read is safe from any number of threads. The files are borrowed and must outlive this. Scratch
// memory (about 8 MiB a reading thread) is kept for the next call and freed with the object.
#ifndef ENGRAM_STORAGE_CHECKPOINT_ROW_PARTS_H_
#define ENGRAM_STORAGE_CHECKPOINT_ROW_PARTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "storage/base/mutex.h"
#include "storage/checkpoint/file_reader.h"

namespace engram {

struct RowPart {
  const FileReader* file = nullptr;
  uint64_t offset = 0;  // of row 0 in the file
  uint32_t bytes = 0;   // a row
  std::string tensor;   // for errors
};

class RowParts {
 public:
  explicit RowParts(std::vector<RowPart> parts);

  uint32_t row_bytes() const { return row_bytes_; }

  // Fills `out` with rows first … first + count − 1. Requires that they exist and that `out` is
  // count × row_bytes() long. Errors are FileReader::Read's, with the tensor's name.
  absl::Status Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) const;

 private:
  using Scratch = std::vector<AlignedBuffer>;  // one a part

  absl::Status ReadBlock(uint64_t first, uint64_t count, std::byte* out, Scratch& scratch) const;
  std::unique_ptr<Scratch> TakeScratch() const;
  void ReturnScratch(std::unique_ptr<Scratch> scratch) const;

  const std::vector<RowPart> parts_;
  uint32_t row_bytes_ = 0;
  mutable Mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_ROW_PARTS_H_
