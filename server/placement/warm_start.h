// WarmStart: fills new DRAM caches, so that they do not begin empty.
//
// One thread looks at the caches of every active version after each change. A new one that has not
// adopted most of its rows from an earlier daemon is filled from NVMe with the rows that were held
// before (saved at stops, at switches and every few minutes), then with those of a profile, as far
// as there is room. Rows are listed by id: another version with the same addressing gets the same
// requests, and its own bytes are read.
//
// Thread-safe. Best effort: failures are logged, and the tier learns by itself.
#ifndef ENGRAM_SERVER_PLACEMENT_WARM_START_H_
#define ENGRAM_SERVER_PLACEMENT_WARM_START_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/placement/cache_handle.h"
#include "server/placement/hotness_files.h"
#include "server/tables/dram_observer.h"
#include "server/tables/tables.h"
#include "storage/base/mutex.h"
#include "storage/table/spec.h"

namespace engram {

class WarmStart final : public DramObserver {
 public:
  struct Options {
    std::string directory;  // for its files: a folder of the data directory
    // Whether what look-ups have shown outlives the daemon. If not, it is saved at switches only.
    bool keep_live = true;
    // A profile's path for tables of a name; each is read when the table is first seen.
    std::vector<std::pair<std::string, std::string>> profiles = {};
    std::chrono::milliseconds save_interval = std::chrono::minutes(10);
  };

  explicit WarmStart(Options options);
  ~WarmStart() override;
  WarmStart(const WarmStart&) = delete;
  WarmStart& operator=(const WarmStart&) = delete;

  // Begins. `tables` must be there until Stop returns.
  void Start(const Tables* tables);
  // Ends the thread, soon, and saves what there is to save. Once; nothing is saved afterwards.
  void Stop();

  // Imports a profile for this table's addressing; the thread places its rows if the table is
  // active. Errors of ImportProfile. Blocks on the drive.
  absl::Status TakeProfile(const std::string& path, const TableSpec& spec);

  // Whether the thread has nothing to do: every cache is filled, and would be saved.
  bool Idle() const;

  void BeforeSwitch(const OpenTable& outgoing) override;
  void AfterChange() override;
  void AfterDrop(absl::string_view table, const std::vector<TableRecord>& left) override;

 private:
  using Kind = HotnessFiles::Kind;
  // One layer of an active version.
  struct Layer {
    uint32_t stack_id = 0;
    HotnessFiles::Key key;
    uint64_t rows = 0;
  };
  struct State {
    CacheHandle cache;
    bool settled = false;  // its placement is done; until then it is not worth saving
    uint64_t saved_at = 0;
  };
  static std::vector<Layer> LayersOf(const OpenTable& table);

  void Run();
  void Round();
  void TakeConfigured(const OpenTable& table);
  void PlaceIn(const Layer& layer, bool asked);
  // Places from one file; returns how many rows it has, 0 if it cannot be used.
  uint64_t PlaceFrom(const Layer& layer, const CacheHandle& cache, Kind kind, uint32_t most);
  void SaveAll();
  void Save(const Layer& layer);
  absl::Status WriteLive(const Layer& layer, const CacheHandle& cache);

  const Options options_;
  const HotnessFiles files_;
  const Tables* tables_ = nullptr;  // set before the thread begins
  std::atomic<bool> stop_{false};
  std::thread thread_;

  Mutex save_mutex_;     // one live file is written at a time, none while files are removed
  Mutex import_mutex_;   // one profile is taken over at a time
  mutable Mutex mutex_;  // never held while anything blocks
  CondVar wake_;
  bool changed_ ABSL_GUARDED_BY(mutex_) = true;
  bool at_work_ ABSL_GUARDED_BY(mutex_) = false;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<uint32_t, State> states_ ABSL_GUARDED_BY(mutex_);  // by stack
  // Table and fingerprint, of profiles taken over since the last round.
  using Addressing = std::pair<std::string, std::string>;
  std::set<Addressing> asked_ ABSL_GUARDED_BY(mutex_);
  std::set<Addressing> configured_;  // those whose configured profile was read; the thread's own
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_WARM_START_H_
