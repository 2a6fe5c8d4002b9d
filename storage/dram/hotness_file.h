// The hotness of a layer's rows as bytes, to be kept across restarts: which rows were held, and how
// often each was asked for. It does not depend on the cache's size or layout, so it may be restored
// into another one (Hotness::Recall), or tell which rows to read first.
//
//   "engrhot1"  uint32 version (1)  uint32 length of identity  identity  digest
//   blocks:  uint32 entries, 1 … kHotnessBlockRows  entries × (uint32 row id, uint8 count)  digest
//   end:     uint32 0  digest
//
// Numbers are little-endian. A digest is the 32 hex digits of storage/table/digest.h over all bytes
// of the file before it, so blocks cannot be left out or change places. `identity` names what the
// ids mean (table, addressing, layer) and the counts; another one's file is refused.
//
// What is read is advice: a row wrongly thought hot costs a way for a while, never a wrong byte.
// One thread at a time.
#ifndef ENGRAM_STORAGE_DRAM_HOTNESS_FILE_H_
#define ENGRAM_STORAGE_DRAM_HOTNESS_FILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/table/digest.h"

namespace engram {

inline constexpr uint32_t kHotnessBlockRows = 1 << 16;
inline constexpr size_t kMostHotnessIdentity = 1024;

class HotnessWriter {
 public:
  // Takes the file's next bytes; its errors are passed on.
  using Sink = std::function<absl::Status(absl::string_view bytes)>;
  // Requires identity.size() <= kMostHotnessIdentity.
  HotnessWriter(absl::string_view identity, Sink sink);

  // Requires 1 <= count <= dram::kMaxCount. Keeps up to kHotnessBlockRows rows before it writes.
  absl::Status Add(uint32_t row_id, uint32_t count);
  // To be called once, at the end: without it the file is refused as torn.
  absl::Status Finish();

 private:
  absl::Status WriteBlock();
  absl::Status Write(absl::string_view bytes);

  const Sink sink_;
  Digest digest_;
  std::string header_;  // until it is written
  std::string entries_;
  uint32_t pending_ = 0;
};

// Fills `out` with the file's next bytes and returns how many there were; fewer only at its end.
using HotnessSource = std::function<absl::StatusOr<size_t>(absl::Span<char> out)>;
using HotRowVisitor = std::function<void(uint32_t row_id, uint32_t count)>;

// Reads a file for a layer of `rows` rows and reports its rows, a block at a time, each when its
// digest was found right; those of good blocks before a bad one were reported when an error comes.
// Takes less than 1 MiB of memory whatever the bytes are.
//   FailedPrecondition: another identity, or a version that is not known
//   DataLoss: no such file, torn or damaged, or with rows that the layer does not have; the text
//     names the offset
//   the source's own errors
absl::Status ReadHotness(absl::string_view identity, uint64_t rows, const HotnessSource& source,
                         const HotRowVisitor& visit);

}  // namespace engram

#endif  // ENGRAM_STORAGE_DRAM_HOTNESS_FILE_H_
