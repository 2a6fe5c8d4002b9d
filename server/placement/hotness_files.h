// HotnessFiles: the folder of the data directory with what is known of which rows are asked for
// most often, so that DRAM need not be learned anew.
//
// One HOT file (storage/profile/FORMAT.md) a table's name, addressing and layer: so it serves every
// version whose n-grams ask for the same rows. What look-ups have shown (.live) and what a profile
// says (.profile) are kept apart. All of it is advice, of which a row wrongly thought hot costs a
// way for a while, never a wrong byte: a daemon that cannot read or write it does without.
//
// Thread-safe; blocks on the drive. Files are replaced whole (a new one, synced, renamed), so a
// crash leaves the old one or the new one.
#ifndef ENGRAM_SERVER_PLACEMENT_HOTNESS_FILES_H_
#define ENGRAM_SERVER_PLACEMENT_HOTNESS_FILES_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/profile/hot_file.h"
#include "storage/profile/hot_writer.h"
#include "storage/table/ids.h"

namespace engram {

class HotnessFiles {
 public:
  using Kind = HotKind;
  struct Key {
    std::string table;
    std::string fingerprint;  // AddressingFingerprint of the table
    LayerId layer{};
  };

  // `directory` is made when something is first written.
  explicit HotnessFiles(std::string directory) : directory_(std::move(directory)) {}

  // Removes what writes that were killed have left, and all live files if `live` is not wanted.
  void CleanUp(bool keep_live) const;

  // Replaces a file by the rows that `fill` adds to the writer. `outline` says the rest of the
  // layer, as HotWriter::BeginLayer wants it, but for the id, which is the key's. `bytes` is about
  // how many the file will have: ResourceExhausted, and nothing is begun, if the drive would be
  // left with little. Errors of `fill`, and Unavailable or ResourceExhausted with path and errno:
  // the old file stays then.
  absl::Status Write(const Key& key, Kind kind, LayerProfile outline, uint64_t bytes,
                     const std::function<absl::Status(HotWriter&)>& fill) const;

  // Reports the rows of a file, as ReadHotLayer does, for a layer of `rows` rows. NotFound: there
  // is none. Cancelled soon after `stop` is set. Errors of ReadHotLayer, with the path and the
  // remedy.
  absl::Status Read(const Key& key, Kind kind, uint64_t rows, const std::atomic<bool>& stop,
                    const HotRunVisitor& visit) const;

  // Removes the files of this table but those of these fingerprints.
  void KeepOnly(absl::string_view table, const std::set<std::string>& fingerprints) const;

  std::string PathOf(const Key& key, Kind kind) const;

 private:
  const std::string directory_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_HOTNESS_FILES_H_
