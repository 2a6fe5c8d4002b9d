// Tables: every published version, opened for reading, and which one is active. Nothing else in the
// daemon knows versions.
//
// A look-up takes a shared pointer to an immutable OpenTable and finishes on it, whatever is
// activated or dropped meanwhile. After each change the layers of active versions get new shares of
// DRAM (DramShares), and the observers are notified.
//
// Thread-safe. Find and Snapshot do not block on the drive; the others do, one at a time.
#ifndef ENGRAM_SERVER_TABLES_TABLES_H_
#define ENGRAM_SERVER_TABLES_TABLES_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/tables/dram_observer.h"
#include "server/tables/dram_shares.h"
#include "server/tables/hbm_observer.h"
#include "server/tables/stats.h"
#include "server/tables/tier_stack.h"
#include "storage/base/mutex.h"
#include "storage/nvme/store.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"

namespace engram {

// One version of one table, open. Immutable but for what its stacks hold in DRAM.
struct OpenTable {
  TableRecord record;  // `active` as of opening; ask Tables for the present
  std::shared_ptr<TableProbe> probe;
  std::vector<std::unique_ptr<TierStack>> layers;  // as record.spec.layers
  std::vector<NgramHasher> hashers;                // one a layer; none: rows by id only
  std::optional<TokenMap> token_map;

  const TableSpec& spec() const { return record.spec; }
  TierStack* FindLayer(LayerId id) const;
};

class Tables {
 public:
  struct Options {
    uint64_t dram_budget_bytes = 0;  // at first
    // Where DRAM lies; outlives the Tables. Null: in anonymous memory that they make themselves.
    SegmentStore* segments = nullptr;
    dram::Admission admission = dram::Admission::kAdaptive;
    DramObserver* dram = nullptr;        // outlives the Tables; may be null
    HbmObserver* hbm = nullptr;          // likewise
    WorkPool* gather_helpers = nullptr;  // outlives the Tables; null: batches are gathered alone
    // As DramShares::Options. For tests.
    std::function<void()> await_clients = nullptr;
  };
  // Opens every published version of `store`, which must outlive the Tables. A version that cannot
  // be opened is logged and left out; the others serve.
  static absl::StatusOr<std::unique_ptr<Tables>> Open(Store* store, Options options);

  // NotFound, naming table and version.
  absl::StatusOr<std::shared_ptr<const OpenTable>> Find(absl::string_view name,
                                                        VersionId version) const;

  // Called after a load has published `published`. Opens it, unless it is open already. NotFound:
  // it has been dropped since.
  absl::Status Add(const TableRecord& published);
  absl::Status Activate(absl::string_view name, VersionId version);
  // Drops one version, also one whose record cannot be read. Waits, up to 10 s, until look-ups
  // under way have left it. NotFound. FailedPrecondition: it is being loaded or repaired.
  absl::Status DropVersion(absl::string_view name, VersionId version);
  // Drops every version whose record can be read, and returns them, ascending. Waits likewise, for
  // each. NotFound: there is none. FailedPrecondition: one of them is being loaded or repaired;
  // none is dropped. If one fails all the same, the error names those that are dropped by then.
  absl::StatusOr<std::vector<VersionId>> DropTable(absl::string_view name);

  std::vector<TableSnapshot> Snapshot() const;
  // The active version of each table that has one.
  std::vector<std::shared_ptr<const OpenTable>> Active() const;
  // Every version that is open.
  std::vector<std::shared_ptr<const OpenTable>> AllOpen() const;

  // The stack of this id, and the table that keeps it alive; null if it is gone.
  struct SharedStack {
    std::shared_ptr<const OpenTable> table;
    TierStack* stack = nullptr;
  };
  SharedStack FindStack(uint32_t stack_id) const;
  SegmentStore& segments() const { return *segments_; }

  // Gives the tier another budget and divides it; returns when what was given up is free. Rows stay
  // as far as there is room. The caller checks that the host has the memory (CheckRoomForDram): a
  // layer whose memory cannot be allocated is logged and keeps what it has.
  void SetDramBudget(uint64_t bytes);
  uint64_t dram_budget_bytes() const { return dram_budget_.load(std::memory_order_relaxed); }
  // What of it is kept for attached clients' rings: none if the memory is not shared.
  uint64_t dram_bytes_for_rings() const;
  // What the tier takes now.
  uint64_t DramBytes() const;

  // The stacks, by id, whose DRAM began with rows of an earlier daemon.
  std::vector<uint32_t> StacksWithAdoptedRows() const;
  // Whether this one is among them. Waits for a change that is under way, in which a stack may be
  // without its cache. The caller holds no table: a drop waits until nobody does.
  bool HasAdoptedRows(uint32_t stack_id);
  // Replaces this stack's DRAM by as much memory without a row, and advances the generation.
  // Nothing happens if the stack is gone, or has no row of an earlier daemon any more.
  void RenewDram(uint32_t stack_id);

  // Takes all DRAM away, so that nothing of it outlives the daemon.
  void GiveUpDram();
  Store* store() const { return store_; }
  const Options& options() const { return options_; }

 private:
  using Key = std::pair<std::string, VersionId>;

  Tables(Store* store, Options options);
  absl::StatusOr<std::shared_ptr<OpenTable>> OpenVersion(const TableRecord& record);
  std::string HbmNote() const;
  void DivideDram() ABSL_EXCLUSIVE_LOCKS_REQUIRED(admin_mutex_);
  absl::Status DropOne(const Key& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(admin_mutex_);
  void AfterDrops(absl::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(admin_mutex_);

  Store* const store_;
  const Options options_;
  const std::unique_ptr<SegmentStore> own_segments_;  // before the stacks, whose memory it is
  SegmentStore* const segments_;
  // Changed with admin_mutex_ held. Relaxed: nothing else is published with it.
  std::atomic<uint64_t> dram_budget_;
  Mutex admin_mutex_;    // one change at a time; taken before mutex_
  mutable Mutex mutex_;  // held only to read or write the maps
  std::map<Key, std::shared_ptr<OpenTable>> open_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, VersionId, std::less<>> active_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<TableProbe>, std::less<>> probes_ ABSL_GUARDED_BY(mutex_);
  DramShares shares_ ABSL_GUARDED_BY(admin_mutex_);
};

}  // namespace engram

#endif  // ENGRAM_SERVER_TABLES_TABLES_H_
