#include "server/tables/tables.h"

#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"

namespace engram {
namespace {

// How long a drop waits for look-ups on the version, so that the space is free when it returns.
constexpr std::chrono::seconds kDropPatience{10};

std::string Title(absl::string_view name, VersionId version) {
  return absl::StrCat("table '", name, "' version ", Raw(version));
}

absl::Status NoSuchTable(absl::string_view name) {
  return absl::NotFoundError(
      absl::StrCat("there is no table '", name, "': `engramctl list` shows those there are"));
}

absl::Status NoSuchVersion(absl::string_view name, VersionId version) {
  return absl::NotFoundError(absl::StrCat("there is no ", Title(name, version),
                                          ": `engramctl list` shows those there are"));
}

}  // namespace

TierStack* OpenTable::FindLayer(LayerId id) const {
  for (const std::unique_ptr<TierStack>& layer : layers) {
    if (layer->spec().id == id) return layer.get();
  }
  return nullptr;
}

absl::StatusOr<std::unique_ptr<Tables>> Tables::Open(Store* store, Options options) {
  std::unique_ptr<Tables> tables(new Tables(store, std::move(options)));
  MutexLock admin(tables->admin_mutex_);
  for (const TableRecord& record : store->List()) {
    if (record.state != TableState::kPublished) continue;
    absl::StatusOr<std::shared_ptr<OpenTable>> opened = tables->OpenVersion(record);
    if (!opened.ok()) {
      ENGRAM_LOG(kError) << Title(record.spec.name, record.spec.version)
                         << " is not served: " << opened.status().message();
      continue;
    }
    MutexLock lock(tables->mutex_);
    if (record.active) tables->active_[record.spec.name] = record.spec.version;
    tables->open_[{record.spec.name, record.spec.version}] = *std::move(opened);
  }
  tables->DivideDram();
  return tables;
}

Tables::Tables(Store* store, Options options)
    : store_(store),
      options_(std::move(options)),
      own_segments_(options_.segments == nullptr ? SegmentStore::Anonymous() : nullptr),
      segments_(options_.segments == nullptr ? own_segments_.get() : options_.segments),
      dram_budget_(options_.dram_budget_bytes),
      shares_({.segments = segments_,
               .admission = options_.admission,
               .gather_helpers = options_.gather_helpers,
               .await_clients = options_.await_clients}) {}

// Until the HBM tier reports something else.
std::string Tables::HbmNote() const {
  const std::string note = options_.hbm == nullptr ? "off: its budget is 0" : options_.hbm->note();
  return absl::StartsWith(note, "off") ? note : "off: only the active version of a table has HBM";
}

absl::StatusOr<std::shared_ptr<OpenTable>> Tables::OpenVersion(const TableRecord& record) {
  auto table = std::make_shared<OpenTable>();
  table->record = record;
  {
    MutexLock lock(mutex_);
    std::shared_ptr<TableProbe>& probe = probes_[record.spec.name];
    if (probe == nullptr) probe = std::make_shared<TableProbe>();
    table->probe = probe;
  }
  ENGRAM_ASSIGN_OR_RETURN(table->token_map,
                          store_->ReadTokenMap(record.spec.name, record.spec.version));
  const bool hashed = record.spec.addressing.hash != HashKind::kNone;
  for (const LayerSpec& layer : record.spec.layers) {
    if (hashed) {
      ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                              NgramHasher::Create(record.spec.addressing, layer));
      table->hashers.push_back(std::move(hasher));
    }
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<LayerReader> nvme,
                            store_->OpenLayer(record.spec.name, record.spec.version, layer.id,
                                              &table->probe->Layer(layer.id).pages));
    table->layers.push_back(std::make_unique<TierStack>(layer, std::move(nvme), HbmNote(),
                                                        &table->probe->Layer(layer.id)));
  }
  return table;
}

absl::StatusOr<std::shared_ptr<const OpenTable>> Tables::Find(absl::string_view name,
                                                              VersionId version) const {
  MutexLock lock(mutex_);
  if (version == kActiveVersion) {
    const auto active = active_.find(name);
    if (active != active_.end()) version = active->second;
  }
  const auto found = open_.find({std::string(name), version});
  if (found != open_.end()) return found->second;
  if (version == kActiveVersion) {
    if (probes_.contains(name)) {
      return absl::NotFoundError(absl::StrCat(
          "table '", name, "' has no active version: choose one with `engramctl activate`"));
    }
    return NoSuchTable(name);
  }
  return NoSuchVersion(name, version);
}

absl::Status Tables::Add(const TableRecord& published) {
  MutexLock admin(admin_mutex_);
  // Since its publication another version may have been activated: what is active is what the
  // catalog says now, while nobody else can change it.
  ENGRAM_ASSIGN_OR_RETURN(const TableRecord record,
                          store_->Find(published.spec.name, published.spec.version));
  const Key key{record.spec.name, record.spec.version};
  {
    // It may have been dropped, loaded again, and added by that load. A second instance would
    // replace the stacks that shares_ points to.
    MutexLock lock(mutex_);
    if (open_.contains(key)) return absl::OkStatus();
  }
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<OpenTable> opened, OpenVersion(record));
  {
    MutexLock lock(mutex_);
    open_[key] = std::move(opened);
    if (record.active) active_[record.spec.name] = record.spec.version;
  }
  DivideDram();
  return absl::OkStatus();
}

absl::Status Tables::Activate(absl::string_view name, VersionId version) {
  MutexLock admin(admin_mutex_);
  ENGRAM_RETURN_IF_ERROR(Find(name, version).status());
  if (options_.dram != nullptr) {
    const auto outgoing = Find(name, kActiveVersion);
    if (outgoing.ok() && (*outgoing)->spec().version != version) {
      options_.dram->BeforeSwitch(**outgoing);
    }
  }
  ENGRAM_RETURN_IF_ERROR(store_->Activate(name, version));
  {
    MutexLock lock(mutex_);
    active_[std::string(name)] = version;
  }
  ENGRAM_LOG(kInfo) << Title(name, version) << " is active";
  DivideDram();
  return absl::OkStatus();
}

absl::Status Tables::DropVersion(absl::string_view name, VersionId version) {
  MutexLock admin(admin_mutex_);
  // Not looked up in the list first: it leaves out versions whose record is damaged or of another
  // release, and nothing but this call gets rid of those.
  const absl::Status status = DropOne({std::string(name), version});
  if (absl::IsNotFound(status)) return NoSuchVersion(name, version);
  ENGRAM_RETURN_IF_ERROR(status);
  AfterDrops(name);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<VersionId>> Tables::DropTable(absl::string_view name) {
  MutexLock admin(admin_mutex_);
  std::vector<VersionId> wanted;
  for (const TableRecord& record : store_->List()) {
    if (record.spec.name != name) continue;
    // Checked before the first drop: while the next version is being loaded, those that serve must
    // not go and leave only that one.
    if (record.has_writer) {
      return absl::FailedPreconditionError(
          absl::StrCat(Title(name, record.spec.version),
                       " is being loaded or repaired right now, so nothing is dropped; cancel that "
                       "first, or drop other versions one by one"));
    }
    wanted.push_back(record.spec.version);
  }
  if (wanted.empty()) return NoSuchTable(name);
  std::vector<VersionId> dropped;
  absl::Status status;
  for (const VersionId version : wanted) {
    status = DropOne({std::string(name), version});
    if (!status.ok()) break;
    dropped.push_back(version);
  }
  AfterDrops(name);
  if (status.ok()) return dropped;
  if (dropped.empty()) return status;
  // A writer may have come in between, or the drive fail; what is gone does not come back.
  const std::string gone = absl::StrJoin(dropped, ", ", [](std::string* out, VersionId version) {
    absl::StrAppend(out, "version ", Raw(version));
  });
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), " (of table '", name, "' ", gone,
                                   dropped.size() == 1 ? " is" : " are", " dropped already)"));
}

void Tables::AfterDrops(absl::string_view name) {
  DivideDram();
  if (options_.dram != nullptr) options_.dram->AfterDrop(name, store_->List());
}

absl::Status Tables::DropOne(const Key& key) {
  const auto& [name, version] = key;
  ENGRAM_RETURN_IF_ERROR(store_->Drop(name, version));
  std::shared_ptr<OpenTable> table;
  {
    MutexLock lock(mutex_);
    if (const auto found = open_.find(key); found != open_.end()) {
      table = std::move(found->second);
      open_.erase(found);
    }
    if (const auto active = active_.find(name);
        active != active_.end() && active->second == version) {
      active_.erase(active);
    }
    const auto next = open_.lower_bound({name, VersionId{0}});
    if (next == open_.end() || next->first.first != name) probes_.erase(name);
  }
  ENGRAM_LOG(kInfo) << Title(name, version) << " is dropped";
  if (table == nullptr) return absl::OkStatus();
  std::vector<TierStack*> stacks;
  for (const std::unique_ptr<TierStack>& layer : table->layers) stacks.push_back(layer.get());
  shares_.Release(stacks);
  std::weak_ptr<OpenTable> gone = table;
  table.reset();
  const auto deadline = std::chrono::steady_clock::now() + kDropPatience;
  while (!gone.expired() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return absl::OkStatus();
}

uint64_t Tables::dram_bytes_for_rings() const {
  return segments_->shared() ? dram::BytesForRings(dram_budget_bytes()) : 0;
}

void Tables::DivideDram() {
  // A version goes only with admin_mutex_ held, so the stacks stay.
  std::vector<DramShares::Layer> layers;
  for (const std::shared_ptr<const OpenTable>& table : Active()) {
    for (const std::unique_ptr<TierStack>& stack : table->layers) {
      layers.push_back({stack.get(), table->record.table_digest});
    }
  }
  shares_.Divide(dram_budget_bytes() - dram_bytes_for_rings(), layers);
  // Also for a switch that moves no memory: clients that follow the active version look again.
  segments_->Advance();
  if (options_.dram != nullptr) options_.dram->AfterChange();
  if (options_.hbm != nullptr) options_.hbm->AfterChange();
}

std::vector<uint32_t> Tables::StacksWithAdoptedRows() const {
  std::vector<uint32_t> ids;
  MutexLock lock(mutex_);
  for (const auto& [key, table] : open_) {
    for (const std::unique_ptr<TierStack>& layer : table->layers) {
      if (layer->AdoptedRows() > 0) ids.push_back(layer->id());
    }
  }
  return ids;
}

bool Tables::HasAdoptedRows(uint32_t stack_id) {
  MutexLock admin(admin_mutex_);
  const SharedStack shared = FindStack(stack_id);
  return shared.stack != nullptr && shared.stack->AdoptedRows() > 0;
}

void Tables::RenewDram(uint32_t stack_id) {
  MutexLock admin(admin_mutex_);
  const SharedStack shared = FindStack(stack_id);
  // While the mutex was waited for, a switch or a drop may have taken the memory.
  if (shared.stack == nullptr || shared.stack->AdoptedRows() == 0) return;
  shares_.Renew({shared.stack, shared.table->record.table_digest});
  segments_->Advance();
  if (options_.dram != nullptr) options_.dram->AfterChange();
  ENGRAM_LOG(kInfo) << Title(shared.table->spec().name, shared.table->spec().version) << " layer "
                    << Raw(shared.stack->spec().id) << " begins a DRAM tier anew";
}

void Tables::SetDramBudget(uint64_t bytes) {
  MutexLock admin(admin_mutex_);
  ENGRAM_LOG(kInfo) << "the DRAM budget becomes " << FormatSize(bytes) << ", before "
                    << FormatSize(dram_budget_bytes());
  dram_budget_.store(bytes, std::memory_order_relaxed);
  DivideDram();
}

std::vector<std::shared_ptr<const OpenTable>> Tables::AllOpen() const {
  std::vector<std::shared_ptr<const OpenTable>> all;
  MutexLock lock(mutex_);
  for (const auto& [key, table] : open_) all.push_back(table);
  return all;
}

uint64_t Tables::DramBytes() const {
  uint64_t bytes = 0;
  for (const std::shared_ptr<const OpenTable>& table : AllOpen()) {
    for (const std::unique_ptr<TierStack>& layer : table->layers) {
      if (const auto dram = layer->SharedDram(); dram != nullptr) {
        bytes += dram->Usage().capacity_bytes;
      }
    }
  }
  return bytes;
}

void Tables::GiveUpDram() {
  MutexLock admin(admin_mutex_);
  shares_.ReleaseAll();
}

Tables::SharedStack Tables::FindStack(uint32_t stack_id) const {
  MutexLock lock(mutex_);
  for (const auto& [key, table] : open_) {
    for (const std::unique_ptr<TierStack>& layer : table->layers) {
      if (layer->id() == stack_id) return {table, layer.get()};
    }
  }
  return {};
}

std::vector<std::shared_ptr<const OpenTable>> Tables::Active() const {
  std::vector<std::shared_ptr<const OpenTable>> result;
  MutexLock lock(mutex_);
  for (const auto& [name, version] : active_) {
    if (const auto open = open_.find({name, version}); open != open_.end()) {
      result.push_back(open->second);
    }
  }
  return result;
}

std::vector<TableSnapshot> Tables::Snapshot() const {
  std::vector<TableSnapshot> result;
  MutexLock lock(mutex_);
  for (const auto& [name, probe] : probes_) {
    TableSnapshot& table = result.emplace_back();
    table.name = name;
    table.lookups = probe->lookups.load(std::memory_order_relaxed);
    table.failed_lookups = probe->failed_lookups.load(std::memory_order_relaxed);
    probe->AddPrefetches(table);
    table.skipped_prefetch_rows = probe->skipped_prefetch_rows.load(std::memory_order_relaxed);
    table.lookup_seconds = probe->lookup_seconds.Snapshot();
    const auto active = active_.find(name);
    if (active == active_.end()) continue;
    table.version = active->second;
    const auto open = open_.find({name, active->second});
    if (open == open_.end()) continue;
    for (const std::unique_ptr<TierStack>& layer : open->second->layers) {
      LayerSnapshot& snapshot = table.layers.emplace_back();
      snapshot.layer = layer->spec().id;
      snapshot.tiers = layer->Snapshot();
      snapshot.failed_rows = layer->probe().failed_rows.load(std::memory_order_relaxed);
      snapshot.zero_rows = layer->probe().zero_rows.load(std::memory_order_relaxed);
      snapshot.failed_pages = layer->probe().pages.failed.load(std::memory_order_relaxed);
      snapshot.retried_pages = layer->probe().pages.retried.load(std::memory_order_relaxed);
      snapshot.shared_pages = layer->probe().pages.shared.load(std::memory_order_relaxed);
    }
  }
  return result;
}

}  // namespace engram
