// RowParts: rows whose bytes come from one or more tensors, laid one behind the other.
//
// A quantised table keeps values and scales in tensors of their own; a served row is both. Each
// part is a region of a file in which row r lies at offset + r × bytes.
//
// Read is safe from any number of threads. The files are borrowed and must outlive this. Scratch
// memory (about 8 MiB a reading thread) is kept in a pool for the next call.
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

// Scratch memory of readers, one piece for each that reads at the same time. Safe from any thread.
class ScratchPool {
 public:
  using Scratch = std::vector<AlignedBuffer>;

  // At least `buffers` buffers.
  std::unique_ptr<Scratch> Take(size_t buffers);
  void Return(std::unique_ptr<Scratch> scratch);

 private:
  Mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_ ABSL_GUARDED_BY(mutex_);
};

class RowParts {
 public:
  // A table in many pieces shares one pool among them, or each would keep memory of its own.
  explicit RowParts(std::vector<RowPart> parts,
                    std::shared_ptr<ScratchPool> pool = std::make_shared<ScratchPool>());

  uint32_t row_bytes() const { return row_bytes_; }

  // Fills `out` with rows first … first + count − 1. Requires that they exist and that `out` is
  // count × row_bytes() long. Errors are FileReader::Read's, with the tensor's name.
  absl::Status Read(uint64_t first, uint64_t count, absl::Span<std::byte> out) const;

  // For ShardStream, which reads the parts itself.
  const std::vector<RowPart>& parts() const { return parts_; }
  // `bytes` has a stretch of rows of each part; puts those from row `first` of it on into `out`.
  void Interleave(absl::Span<const absl::Span<const std::byte>> bytes, uint64_t first,
                  uint64_t count, std::byte* out) const;
  // An error of reading these rows, with the name of the part's tensor.
  absl::Status Named(const absl::Status& status, size_t part, uint64_t first, uint64_t count) const;

 private:
  absl::Status ReadBlock(uint64_t first, uint64_t count, std::byte* out,
                         ScratchPool::Scratch& scratch) const;

  const std::vector<RowPart> parts_;
  const std::shared_ptr<ScratchPool> pool_;
  uint32_t row_bytes_ = 0;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_CHECKPOINT_ROW_PARTS_H_
