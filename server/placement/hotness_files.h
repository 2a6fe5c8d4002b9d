// HotnessFiles: the folder of the data directory with what is known of which rows are asked for
// most often, so that DRAM need not be learned anew.
//
// One file a table's name, addressing and layer, in the format of storage/dram/hotness_file.h: so
// it serves every version whose n-grams ask for the same rows. What look-ups have shown (.live) and
// what a profile says (.profile) are kept apart. All of it is advice: a daemon that cannot read or
// write it does without.
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
#include "storage/dram/hotness_file.h"
#include "storage/table/ids.h"

namespace engram {

class HotnessFiles {
 public:
  enum class Kind { kLive, kProfile };
  struct Key {
    std::string table;
    std::string fingerprint;  // AddressingFingerprint of the table
    LayerId layer{};
  };

  // `directory` is made when something is first written.
  explicit HotnessFiles(std::string directory) : directory_(std::move(directory)) {}

  // Removes what writes that were killed have left, and all live files if `live` is not wanted.
  void CleanUp(bool keep_live) const;

  // Replaces a file by what `fill` adds to the writer. `bytes` is about how many that will be:
  // ResourceExhausted, and nothing is begun, if the drive would be left with little. Errors of
  // `fill`, and Unavailable or ResourceExhausted with path and errno: the old file stays then.
  absl::Status Write(const Key& key, Kind kind, uint64_t bytes,
                     const std::function<absl::Status(HotnessWriter&)>& fill) const;

  // Reports the rows of a file, as ReadHotness does, for a layer of `rows` rows. NotFound: there is
  // none. Cancelled soon after `stop` is set. Errors of ReadHotness, with the path.
  absl::Status Read(const Key& key, Kind kind, uint64_t rows, const std::atomic<bool>& stop,
                    const HotRowVisitor& visit) const;

  // Removes the files of this table but those of these fingerprints.
  void KeepOnly(absl::string_view table, const std::set<std::string>& fingerprints) const;

  std::string PathOf(const Key& key, Kind kind) const;

 private:
  const std::string directory_;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_HOTNESS_FILES_H_
