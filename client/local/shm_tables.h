// Which tables' DRAM a client has mapped, and whether that still holds.
//
// Thread-safe. Attach blocks on the daemon, a second at most; after a failure it is not tried again
// for a while, so that a daemon that is away costs its callers little.
#ifndef ENGRAM_CLIENT_LOCAL_SHM_TABLES_H_
#define ENGRAM_CLIENT_LOCAL_SHM_TABLES_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/grpc/unary_call.h"
#include "gpu_cache/arena_export.h"
#include "gpu_cache/arena_layout.h"
#include "storage/base/mutex.h"
#include "storage/dram/attached.h"

namespace engram {

// Where a layer lies in the daemon's HBM tier.
struct HbmLayerPlace {
  int32_t layer = 0;
  uint32_t stack_id = 0;
  uint32_t region = 0;
  uint32_t row_bytes = 0;
};

// One version of a table, as it lies in the daemon's memory under one generation. Immutable.
struct ShmTable {
  std::shared_ptr<AttachLink> link;
  uint64_t generation = 0;
  uint64_t version = 0;
  std::string table_digest;
  std::vector<std::unique_ptr<AttachedLayer>> layers;  // ascending
  gpu_cache::ArenaExport arena;  // of the HBM tier; bytes 0: there is none, or none that is known
  std::vector<HbmLayerPlace> hbm_layers;  // ascending
  std::string hbm_note;                   // what the daemon says of it
  bool writable_dram = false;             // whether AttachLink::WritableSegments works

  bool Holds() const { return link->Holds(generation); }
  const AttachedLayer* Find(int32_t layer) const;
};

class ShmTables {
 public:
  ShmTables(std::shared_ptr<grpc::Channel> channel, std::string socket_path);

  // Whether the daemon shares memory with this process at all: as AttachShm.
  absl::Status Probe(std::chrono::milliseconds timeout);

  // What is mapped and holds, or else is mapped now; null when neither. At most one thread at a
  // time attaches; others get null meanwhile.
  std::shared_ptr<const ShmTable> Get(const std::string& table, uint64_t version);

 private:
  using Key = std::pair<std::string, uint64_t>;
  using Clock = std::chrono::steady_clock;

  std::shared_ptr<const ShmTable> Mapped(const Key& key) const;
  absl::StatusOr<std::shared_ptr<const ShmTable>> Attach(const Key& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(attach_mutex_);
  absl::Status Connect(uint64_t instance) ABSL_EXCLUSIVE_LOCKS_REQUIRED(attach_mutex_);

  const std::string socket_path_;
  UnaryCaller caller_;
  Mutex attach_mutex_;  // who attaches
  std::shared_ptr<AttachLink> link_ ABSL_GUARDED_BY(attach_mutex_);
  std::map<Key, Clock::time_point> not_before_ ABSL_GUARDED_BY(attach_mutex_);
  mutable Mutex mutex_;  // held to read or write the map only
  std::map<Key, std::shared_ptr<const ShmTable>> mapped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_LOCAL_SHM_TABLES_H_
