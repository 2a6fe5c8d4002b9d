// ProfileFile: a profile's file (PROFILE_FORMAT.md) read in pieces. RowProfile::Read holds all of
// it, some four times its bytes; the daemon, whose memory belongs to the tier, reads it this way.
//
// Const methods may be called by any number of threads if the source can.
#ifndef ENGRAM_STORAGE_PROFILE_PROFILE_FILE_H_
#define ENGRAM_STORAGE_PROFILE_PROFILE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/profile/row_profile.h"

namespace engram {

// Of all layers together; a billion tokens have some ten thousand an order. Bounds the memory.
inline constexpr uint64_t kMaxStreamedClasses = uint64_t{1} << 21;

class ProfileFile {
 public:
  // Fills `out` with the bytes from `offset` on and returns how many there were: fewer only at the
  // end.
  using Source = std::function<absl::StatusOr<size_t>(uint64_t offset, absl::Span<char> out)>;

  // Reads the whole file once, with its digest and every rule of row_profile.h but one: whether a
  // row stands twice in a head. Errors of RowProfile::Read, with the path; FailedPrecondition too
  // for more than kMaxStreamedClasses. Takes less than 200 MiB whatever the file is. The file stays
  // open as long as the object.
  static absl::StatusOr<ProfileFile> Open(const std::string& path);
  // The same from `bytes` bytes that lie elsewhere.
  static absl::StatusOr<ProfileFile> Scan(uint64_t bytes, Source source);

  // All but the heads, which are empty here.
  const RowProfile& outline() const { return outline_; }
  uint64_t head_rows(size_t layer) const { return heads_[layer].rows; }

  // Reports the head of outline().layers[layer], most frequent first; `visit` may end it by an
  // error, which is passed on. DataLoss if the file has other rows by now than it had.
  absl::Status VisitHead(size_t layer,
                         const std::function<absl::Status(const HotRow&)>& visit) const;

 private:
  class Stream;
  struct Head {
    uint64_t offset = 0;
    uint64_t rows = 0;
  };

  explicit ProfileFile(Source source) : source_(std::move(source)) {}
  absl::Status ScanAll(uint64_t bytes);
  absl::StatusOr<LayerProfile> ScanLayer(Stream& in, uint64_t& classes_left);

  Source source_;
  RowProfile outline_;
  std::vector<Head> heads_;  // as outline_.layers
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_PROFILE_FILE_H_
