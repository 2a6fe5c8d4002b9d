// HotReader: the one reader of HOT files (FORMAT.md), front to back, a block at a time.
//
//   HotReader reader(source);
//   header = reader.ReadHeader();
//   for each of header.layers: outline = reader.ReadOutline(); reader.ReadRows(visit);
//   reader.ReadEnd();
//
// It believes nothing before the digest behind it was right, and takes bounded memory whatever the
// bytes are: less than 1 MiB, and for the classes of a profile's layers, of which there are at most
// kMaxClasses, less than 200 MiB more. One thread at a time.
#ifndef ENGRAM_STORAGE_PROFILE_HOT_READER_H_
#define ENGRAM_STORAGE_PROFILE_HOT_READER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "storage/profile/hot_file.h"
#include "storage/profile/row_profile.h"
#include "storage/profile/row_rules.h"
#include "storage/table/digest.h"

namespace engram {

class HotReader {
 public:
  // Fills `out` with the file's next bytes and returns how many there were; fewer only at its end.
  using Source = std::function<absl::StatusOr<size_t>(absl::Span<char> out)>;

  // Where the reader is, to come back.
  struct Place {
    uint64_t offset = 0;
    std::string digest;  // of the part before
  };

  explicit HotReader(Source source) : source_(std::move(source)) {}

  // Each of the following returns:
  //   DataLoss: no such file, torn or damaged, or it breaks a rule; the text names offset or value
  //   FailedPrecondition: a format of another release, or more than kMaxClasses
  //   the source's own errors
  absl::StatusOr<HotHeader> ReadHeader();
  // The next layer but for its rows.
  absl::StatusOr<LayerProfile> ReadOutline();
  // The rows of that layer, in order; those of one count in one or more runs. Each block is checked
  // before any of its rows are reported; those of good blocks before a bad one were reported when
  // an error comes. Errors of `visit` too.
  absl::Status ReadRows(const HotRunVisitor& visit);
  // What stands behind the last layer, and that nothing follows.
  absl::Status ReadEnd();

  // After ReadOutline or ReadRows.
  Place place() const { return {offset_, chain_}; }
  // Instead of ReadHeader and ReadOutline: `source` begins at the place that an earlier reader had
  // behind this outline, and only ReadRows is called.
  void Resume(HotKind kind, const LayerProfile& outline, const Place& place);

 private:
  // As it lies in the file; the ids of all of a block's runs follow them.
  struct Run {
    uint32_t count = 0;
    uint32_t rows = 0;
  };

  absl::Status Fill(absl::Span<char> out);
  absl::Status Take(void* out, size_t bytes);
  template <typename T>
  absl::Status TakeArray(uint64_t count, std::vector<T>* out);
  absl::StatusOr<std::string> TakeText(size_t bytes);
  absl::StatusOr<std::string> TakeShortText(size_t most);
  absl::Status TakeOrders(LayerProfile& layer, bool& too_many);
  absl::Status CheckDigest();
  void BeginPart(absl::string_view digest_before);
  absl::StatusOr<bool> ReadBlock();
  absl::Status CheckBlock();
  absl::Status Damaged(absl::string_view what) const;

  const Source source_;
  uint64_t offset_ = 0;
  HotKind kind_ = HotKind::kProfile;
  std::string header_digest_;
  std::string chain_;             // the digest of the part before
  std::unique_ptr<Digest> part_;  // of the part under way
  Digest end_;                    // of the digests of the header and of all layers' ends
  uint64_t classes_left_ = kMaxClasses;
  std::optional<LayerId> layer_;
  std::optional<RowRules> rules_;  // of the layer's rows
  // The block under way.
  std::vector<Run> runs_;
  std::vector<RowId> ids_;
};

// Which rows a file of a daemon's data directory lists.
struct HotIdentity {
  HotKind kind = HotKind::kLive;
  std::string table;
  std::string fingerprint;  // AddressingFingerprint of the table
  LayerId layer{};
  uint64_t rows = 0;  // that the layer has

  bool operator==(const HotIdentity&) const = default;
};

// Reads a file of one layer. Errors of HotReader, and FailedPrecondition, naming both, if it is of
// another kind, table, addressing or layer; nothing was reported then.
absl::Status ReadHotLayer(const HotIdentity& wanted, HotReader::Source source,
                          const HotRunVisitor& visit);

}  // namespace engram

#endif  // ENGRAM_STORAGE_PROFILE_HOT_READER_H_
