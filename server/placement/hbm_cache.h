// HbmCache: the HBM tier of all tables. It owns the arena in GPU memory, partitions it among the
// layers of active versions, and keeps the most frequently read rows in it.
//
// One thread does all of it: it reads the access logs (HbmAccessLog), decides which rows belong
// into each layer's region (HbmAdmission), and periodically writes those that are missing, from
// DRAM or else from NVMe. No look-up waits for it, and it waits for none. Workers see a written row
// at once (gpu_cache/arena.h has the rules); a batch under way sees each row whole or not at all.
//
// Where there is no device, too little memory, or the device is lost later, the tier is off, says
// why, and everything else goes on.
//
// Thread-safe.
#ifndef ENGRAM_SERVER_PLACEMENT_HBM_CACHE_H_
#define ENGRAM_SERVER_PLACEMENT_HBM_CACHE_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "gpu_cache/arena.h"
#include "gpu_cache/backend.h"
#include "server/placement/hbm_admission.h"
#include "server/placement/hotness_files.h"
#include "server/tables/tables.h"
#include "storage/base/mutex.h"
#include "storage/base/unique_fd.h"

namespace engram {

class HbmCache final : public HbmObserver {
 public:
  enum class Memory {
    kGpu,          // that workers map read-only
    kGpuWritable,  // the same, or, where that is not supported, memory that they could write
    kHost,         // this machine's, in the part of a GPU
  };
  struct Options {
    uint64_t budget_bytes = 0;  // index included; 0: the tier is off
    Memory memory = Memory::kGpu;
    int gpu = 0;
    // Between two replacements of rows by others that are read more often.
    std::chrono::milliseconds refresh = std::chrono::seconds(30);
    // Between two reads of the access logs.
    std::chrono::milliseconds round = std::chrono::milliseconds(100);
    std::string hotness_directory = {};  // WarmStart's: profiles are read there
    // Opens the device instead of what `memory` and `gpu` say: for tests.
    std::function<gpu_cache::Status(std::unique_ptr<gpu_cache::Backend>&)> open = nullptr;
  };
  // Allocates the arena, if it can: may take a second with a GPU.
  explicit HbmCache(const Options& options);
  ~HbmCache() override;
  HbmCache(const HbmCache&) = delete;
  HbmCache& operator=(const HbmCache&) = delete;

  // "off: …", or which device and how workers map it.
  std::string note() const override;

  // Begins. `tables` must be there until Stop returns.
  void Start(const Tables* tables);
  void Stop();
  // Versions came, went, or were switched.
  void AfterChange() override;

  // What a worker needs to map the arena and to find a layer in it.
  struct Place {
    gpu_cache::ArenaExport arena;
    uint32_t region = 0;
  };
  // Nothing: the tier is off, or the layer has no region. Neither call waits for the device.
  std::optional<Place> Find(uint32_t stack_id) const;
  // The arena's descriptor, for other processes; not valid: there is none.
  UniqueFd ArenaFile() const;

  // Copies those of these rows that the tier holds to rows[i * row_bytes …], and says which; false,
  // and nothing is said, if the layer has no region. Reads the device: for checking.
  bool ReadHeld(uint32_t stack_id, absl::Span<const RowId> ids, absl::Span<std::byte> rows,
                std::vector<bool>& held) const;

 private:
  struct Layer {
    uint32_t stack_id = 0;
    HotnessFiles::Key key;
    std::unique_ptr<HbmAdmission> admission;  // not null in layers_
    bool seeded = false;
    bool profile_read = false;
    uint64_t seen_dram_rows = 0;  // that DRAM held at the last Seed
    uint64_t held_rows = 0;       // in the region, as of the last change
    uint32_t next_sector = 0;     // of a refresh that is under way
    bool refreshing = false;
    uint64_t nvme_left = 0;  // rows that it may still read to take others' places
  };
  // A row that belongs into the region and is not there.
  struct SlotWrite {
    uint64_t slot = 0;
    bool replaces = false;  // a row that the slot holds
    uint32_t row_id = 0;
  };

  // Which layers have a region, and what of each outlives a change of versions.
  struct RegionPlan {
    std::vector<gpu_cache::Arena::LayerShare> shares;  // of all active layers, ascending by stack
    std::map<uint32_t, Layer> layers;                  // by stack
    std::map<uint32_t, Place> places;                  // likewise
  };

  void Open();
  void TurnOff();
  void ReportOff() const;
  void Withdraw();
  void Run();
  void Repartition();
  RegionPlan PlanRegions() const;
  gpu_cache::Status AdoptRegions(RegionPlan& plan);
  void PublishRegions(RegionPlan plan);
  void ReadTelemetry(Layer& layer);
  void Seed(Layer& layer);
  bool DramHasMore(const Layer& layer) const;
  bool RefreshStep(Layer& layer);
  std::vector<SlotWrite> Compare(Layer& layer) const;
  bool WriteRows(Layer& layer, absl::Span<const SlotWrite> writes);
  void PublishUsage(Layer& layer, const Tables::SharedStack& stack) const;
  std::vector<bool> FetchRows(Layer& layer, TierStack& stack, absl::Span<const SlotWrite> writes,
                              absl::Span<std::byte> rows) const;

  const Options options_;
  const HotnessFiles files_;
  const Tables* tables_ = nullptr;  // set before the thread begins
  std::atomic<bool> stop_{false};
  std::thread thread_;
  std::unique_ptr<gpu_cache::Backend> backend_;  // set by the constructor
  std::map<uint32_t, Layer> layers_;             // by stack; the thread's own
  gpu_cache::Status failed_;                     // why the arena cannot be used any more; likewise

  // Held while the device is written or read: milliseconds.
  mutable Mutex arena_mutex_;
  std::unique_ptr<gpu_cache::Arena> arena_ ABSL_GUARDED_BY(arena_mutex_);

  mutable Mutex mutex_;  // never held while anything blocks
  CondVar wake_;
  std::string note_ ABSL_GUARDED_BY(mutex_);
  bool on_ ABSL_GUARDED_BY(mutex_) = false;
  // What Find and ArenaFile answer: neither waits for a device that does not respond.
  std::map<uint32_t, Place> places_ ABSL_GUARDED_BY(mutex_);  // by stack
  UniqueFd arena_file_ ABSL_GUARDED_BY(mutex_);
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace engram

#endif  // ENGRAM_SERVER_PLACEMENT_HBM_CACHE_H_
