#include "tests/bench/flat_file.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "storage/base/io_ring.h"
#include "storage/base/status_macros.h"
#include "tests/bench/append_file.h"
#include "tests/bench/bench_env.h"
#include "tests/bench/bench_table.h"
#include "tests/bench/cold_lookups.h"
#include "tests/bench/uring_reads.h"

namespace engram::bench {

static_assert(kLayers.size() == 2, "OffsetOf knows two");

absl::StatusOr<std::unique_ptr<FlatFile>> FlatFile::Make(const TableShape& shape,
                                                         const std::string& path) {
  std::unique_ptr<FlatFile> flat(new FlatFile(shape));
  AppendFile file;
  ENGRAM_RETURN_IF_ERROR(file.Open(path));
  std::vector<std::byte> row(shape.row_bytes);
  for (size_t i = 0; i < kLayers.size(); ++i) {
    for (uint64_t id = 0; id < shape.rows[i]; ++id) {
      ExpectedRow(kLayers[i], static_cast<uint32_t>(id), absl::MakeSpan(row));
      ENGRAM_RETURN_IF_ERROR(file.Append(row.data(), row.size()));
    }
  }
  ENGRAM_RETURN_IF_ERROR(file.Close());
  ENGRAM_ASSIGN_OR_RETURN(flat->fd_, OpenDirect(path, O_RDONLY));
  return flat;
}

// Reads batches; keeps ring and buffers from one to the next.
class FlatFile::Batch {
 public:
  Batch(const FlatFile& file, int depth, size_t rows)
      : file_(file),
        slot_bytes_((file.shape_.row_bytes / kReadBytes + 2) * kReadBytes),
        buffer_(MakeAlignedBuffer(static_cast<size_t>(depth) * slot_bytes_)),
        ring_(static_cast<unsigned>(depth)),
        rows_(rows * file.shape_.row_bytes),
        slots_(static_cast<size_t>(depth)) {}

  absl::Status Read(size_t layer, const RowIds& ids) {
    if (buffer_ == nullptr) return absl::ResourceExhaustedError("no memory for read buffers");
    ENGRAM_RETURN_IF_ERROR(ring_.status());
    std::vector<size_t> free;
    for (size_t slot = slots_.size(); slot-- > 0;) free.push_back(slot);
    absl::Status status;
    const auto wait = [&](unsigned count) {
      status.Update(ring_.Wait(count, [&](uint64_t slot, int32_t result) {
        status.Update(Take(slots_[slot], buffer_.get() + slot * slot_bytes_, result));
        free.push_back(slot);
      }));
    };
    size_t next = 0;
    while (true) {
      size_t queued = 0;
      while (status.ok() && next < ids.all().size() && !free.empty()) {
        Queue(free.back(), next, file_.OffsetOf(layer, ids.all()[next]));
        free.pop_back();
        ++next;
        if (IsTimeToSend(++queued, ring_.in_flight())) {
          queued = 0;
          wait(0);
        }
      }
      if (ring_.in_flight() == 0) return status;
      wait(1);
    }
  }

  absl::Status Check(size_t layer, const RowIds& ids) const {
    return CheckRows(kLayers[layer], file_.shape_.row_bytes, ids.all(), rows_);
  }

 private:
  struct Slot {
    size_t position = 0;   // of the row in the batch
    uint32_t skipped = 0;  // bytes of the read before the row
  };

  void Queue(size_t index, size_t position, uint64_t offset) {
    const uint64_t first = offset / kReadBytes * kReadBytes;
    const uint64_t end = offset + file_.shape_.row_bytes;
    const uint64_t bytes = (end - first + kReadBytes - 1) / kReadBytes * kReadBytes;
    slots_[index] = {position, static_cast<uint32_t>(offset - first)};
    ring_.Read(file_.fd_.get(), buffer_.get() + index * slot_bytes_, static_cast<uint32_t>(bytes),
               first, index);
  }

  absl::Status Take(const Slot& slot, const std::byte* read, int32_t result) {
    const uint32_t row_bytes = file_.shape_.row_bytes;
    // The last read of the file may be short, but not of what is asked for.
    if (result < static_cast<int32_t>(slot.skipped + row_bytes)) {
      return absl::UnavailableError(
          absl::StrCat("reading the flat file: ", std::strerror(result < 0 ? -result : EIO)));
    }
    std::memcpy(rows_.data() + slot.position * row_bytes, read + slot.skipped, row_bytes);
    return absl::OkStatus();
  }

  const FlatFile& file_;
  const size_t slot_bytes_;
  const AlignedBuffer buffer_;
  IoRing ring_;  // goes before the buffer that its reads write into
  std::vector<std::byte> rows_;
  std::vector<Slot> slots_;
};

absl::StatusOr<FlatFile::Outcome> FlatFile::Run(int depth, size_t rows_per_batch, double seconds,
                                                uint64_t seed) const {
  std::mt19937_64 random(seed);
  Batch batch(*this, depth, rows_per_batch);
  Outcome outcome;
  const double cpu_before = OwnCpuSeconds();
  const Clock::time_point start = Clock::now();
  while (SecondsSince(start) < seconds) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const size_t layer = AnyLayer(shape_, random);
    const RowIds ids = RowIds::Uniform(shape_, layer, rows_per_batch, random);
    ENGRAM_RETURN_IF_ERROR(batch.Read(layer, ids));
    ENGRAM_RETURN_IF_ERROR(batch.Check(layer, ids));
    outcome.rows += ids.all().size();
  }
  outcome.seconds = SecondsSince(start);
  outcome.cpu_seconds = OwnCpuSeconds() - cpu_before;
  return outcome;
}

}  // namespace engram::bench
