// ProfileFile: a profile's file (FORMAT.md) whose outline is known and whose heads are read a block
// at a time. The daemon, whose memory belongs to the tier, visits the heads; RowProfile::Read
// collects them.
//
// Const methods may be called by any number of threads if the source can.
#ifndef ENGRAM_STORAGE_PROFILE_PROFILE_FILE_H_
#define ENGRAM_STORAGE_PROFILE_PROFILE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "storage/profile/hot_reader.h"
#include "storage/profile/row_profile.h"

namespace engram {

class ProfileFile {
 public:
  // Fills `out` with the bytes from `offset` on and returns how many there were: fewer only at the
  // end.
  using Source = std::function<absl::StatusOr<size_t>(uint64_t offset, absl::Span<char> out)>;

  // Reads all of it once, with its digests and every rule of row_profile.h but one: whether a row
  // stands twice in a head. Takes less than 200 MiB whatever the bytes are; bytes that no profile
  // can begin with are refused before the others are read. Errors of HotReader; FailedPrecondition
  // too for a file of a daemon's data directory, which is no whole profile.
  static absl::StatusOr<ProfileFile> Scan(Source source);
  // The same of a file, which stays open as long as the object. Errors of Scan, with the path;
  // NotFound, or Unavailable with errno; InvalidArgument if it is no regular file.
  static absl::StatusOr<ProfileFile> Open(const std::string& path);

  // All but the heads, which are empty here.
  const RowProfile& outline() const { return outline_; }
  // The outline with its heads, each row once. DataLoss for a row that stands twice.
  absl::StatusOr<RowProfile> ReadAll() const;
  uint64_t head_rows(size_t layer) const { return heads_[layer].rows; }

  // Reports the head of outline().layers[layer], most frequent first; `visit` may end it by an
  // error, which is passed on. Errors of HotReader::ReadRows, or DataLoss at the end, if the file
  // has other rows by now than it had.
  absl::Status VisitHead(size_t layer,
                         const std::function<absl::Status(const HotRow&)>& visit) const;

 private:
  struct Head {
    HotReader::Place begin;
    uint64_t rows = 0;
    std::string end_digest;
  };

  explicit ProfileFile(Source source) : source_(std::move(source)) {}
  absl::Status ScanAll();
  HotReader::Source From(uint64_t offset) const;

  Source source_;
  RowProfile outline_;
  std::vector<Head> heads_;  // as outline_.layers
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_PROFILE_FILE_H_
