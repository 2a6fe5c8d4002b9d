// HotWriter: writes a HOT file (FORMAT.md) front to back, row by row. Nothing has to be known of
// the rows beforehand, not even how many there will be.
//
// Holds one block of rows: less than 2 MiB. One thread at a time.
#ifndef ENGRAM_STORAGE_PROFILE_HOT_WRITER_H_
#define ENGRAM_STORAGE_PROFILE_HOT_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/profile/hot_file.h"
#include "storage/profile/row_profile.h"
#include "storage/table/digest.h"

namespace engram {

class HotWriter {
 public:
  // Takes the file's next bytes; its errors are passed on, and end the writing.
  using Sink = std::function<absl::Status(absl::string_view bytes)>;

  // Requires a header that profile_format::CheckHeader accepts.
  HotWriter(HotHeader header, Sink sink);

  // Begins the next layer, of which `outline` says all but the rows (its head is ignored); of a
  // live layer that is its id and its number of rows. Requires ids that ascend, and what
  // profile_format::CheckLayerOutline says of profiles.
  absl::Status BeginLayer(const LayerProfile& outline);
  // One row of the layer, 1 <= count. Requires of a profile's rows the order of LayerProfile::head,
  // and of a live one's count <= kMaxLiveCount.
  absl::Status Add(RowId id, uint32_t count);
  // To be called once, after header.layers layers: a file that lacks it is refused as torn.
  absl::Status Finish();

 private:
  absl::Status WriteHeader();
  absl::Status WriteBlock();
  absl::Status EndLayer();
  absl::Status WritePart(absl::string_view bytes);
  absl::Status WriteBytes(absl::string_view bytes);

  const HotHeader header_;
  const Sink sink_;
  uint64_t written_ = 0;  // bytes
  uint32_t layers_ = 0;   // begun
  std::string header_digest_;
  std::string chain_;  // the digest of the part before
  Digest end_;         // of the digests of the header and of all layers' ends
  std::vector<HotRow> rows_;
};

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_HOT_WRITER_H_
