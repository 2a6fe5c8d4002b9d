#include "server/tables/tables.h"

#include <chrono>
#include <set>
#include <thread>

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

// How long memory stays after clients were told that it goes: for the batches that they have begun.
// Without it they would read zeros, and throw them away; but to read what is no longer there also
// allocates memory, which a full file system may refuse with a signal.
constexpr std::chrono::milliseconds kClientBatch{20};

std::string Title(absl::string_view name, VersionId version) {
  return absl::StrCat("table '", name, "' version ", Raw(version));
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
  tables->ShareOutDram();
  return tables;
}

Tables::Tables(Store* store, Options options)
    : store_(store),
      options_(std::move(options)),
      own_segments_(options_.segments == nullptr ? SegmentStore::Anonymous() : nullptr),
      segments_(options_.segments == nullptr ? own_segments_.get() : options_.segments),
      dram_budget_(options_.dram_budget_bytes) {}

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
    table->layers.push_back(std::make_unique<TierStack>(layer, std::move(nvme),
                                                        HbmNote(),
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
    return absl::NotFoundError(
        absl::StrCat("there is no table '", name, "': `engramctl list` shows those there are"));
  }
  return absl::NotFoundError(absl::StrCat("there is no ", Title(name, version),
                                          ": `engramctl list` shows those there are"));
}

absl::Status Tables::Add(const TableRecord& published) {
  MutexLock admin(admin_mutex_);
  // Since its publication another version may have been activated: what is active is what the
  // catalog says now, while nobody else can change it.
  ENGRAM_ASSIGN_OR_RETURN(const TableRecord record,
                          store_->Find(published.spec.name, published.spec.version));
  ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<OpenTable> opened, OpenVersion(record));
  {
    MutexLock lock(mutex_);
    open_[{record.spec.name, record.spec.version}] = std::move(opened);
    if (record.active) active_[record.spec.name] = record.spec.version;
  }
  ShareOutDram();
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
  ShareOutDram();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<VersionId>> Tables::Drop(absl::string_view name, VersionId version) {
  MutexLock admin(admin_mutex_);
  std::vector<VersionId> wanted;
  for (const TableRecord& record : store_->List()) {
    if (record.spec.name != name) continue;
    if (version != kActiveVersion && record.spec.version != version) continue;
    // Found out before the first drop: of a table whose next version is being loaded, those that
    // serve must not go while that one stays.
    if (record.has_writer) {
      return absl::FailedPreconditionError(
          absl::StrCat(Title(name, record.spec.version),
                       " is being loaded or repaired right now, so nothing is dropped; cancel that "
                       "first, or drop other versions one by one"));
    }
    wanted.push_back(record.spec.version);
  }
  if (wanted.empty() && version != kActiveVersion) {
    // The list leaves out a version whose record is damaged or of another release, and nothing but
    // a drop of that very version gets rid of it.
    const absl::Status status = DropOne({std::string(name), version});
    if (status.ok()) return std::vector<VersionId>{version};
    if (!absl::IsNotFound(status)) return status;
  }
  if (wanted.empty()) {
    return absl::NotFoundError(absl::StrCat(
        "there is no ",
        version == kActiveVersion ? absl::StrCat("table '", name, "'") : Title(name, version),
        ": `engramctl list` shows those there are"));
  }
  std::vector<VersionId> dropped;
  absl::Status status;
  for (const VersionId one : wanted) {
    status = DropOne({std::string(name), one});
    if (!status.ok()) break;
    dropped.push_back(one);
  }
  ShareOutDram();
  if (options_.dram != nullptr) options_.dram->AfterDrop(name, store_->List());
  if (status.ok()) return dropped;
  if (dropped.empty()) return status;
  // A writer may have come in between, or the drive fail; what is gone does not come back.
  const std::string gone = absl::StrJoin(dropped, ", ", [](std::string* out, VersionId one) {
    absl::StrAppend(out, "version ", Raw(one));
  });
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), " (of table '", name, "' ", gone,
                                   dropped.size() == 1 ? " is" : " are", " dropped already)"));
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
  std::vector<TierStack::ResizedDram> going;
  for (const std::unique_ptr<TierStack>& layer : table->layers) {
    going.push_back({.before = layer->TakeDram(), .now = nullptr});
    dram_shares_.erase(layer.get());
  }
  GiveBack(std::move(going));
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

Tables::Shares Tables::PlanShares() const {
  const auto budget = static_cast<double>(dram_budget_bytes() - dram_bytes_for_rings());
  Shares shares;
  uint64_t total = 0;
  MutexLock lock(mutex_);
  for (const auto& [key, table] : open_) {
    const auto active = active_.find(key.first);
    if (active == active_.end() || active->second != key.second) continue;
    for (const std::unique_ptr<TierStack>& layer : table->layers) {
      shares[layer.get()] = {layer->spec().bytes(), table->record.table_digest};
      total += layer->spec().bytes();
    }
  }
  for (auto& [stack, share] : shares) {
    const double part = static_cast<double>(share.bytes) / static_cast<double>(total);
    share.bytes = static_cast<uint64_t>(part * budget);
  }
  return shares;
}

void Tables::GiveBack(std::vector<TierStack::ResizedDram> caches) {
  std::erase_if(caches, [](const auto& cache) { return cache.before == nullptr; });
  if (caches.empty()) return;
  segments_->Advance();
  if (segments_->shared()) {
    if (options_.await_clients) {
      options_.await_clients();
    } else {
      std::this_thread::sleep_for(kClientBatch);
    }
  }
  for (const auto& [before, now] : caches) before->Discard(now.get());
}

// What an earlier daemon left is kept where it is wanted, within the shares.
void Tables::TrimLeftovers(const Shares& shares) {
  std::map<std::pair<std::string, int32_t>, uint64_t> room;
  for (const auto& [stack, share] : shares) {
    if (dram_shares_.contains(stack)) continue;
    room[{share.table_digest, Raw(stack->spec().id)}] = share.bytes;
  }
  segments_->TrimLeftovers([&](const dram::SegmentHeader& header, uint64_t bytes) {
    const auto left = room.find({std::string(header.table_digest), header.layer});
    if (left == room.end() || left->second < bytes) return false;
    left->second -= bytes;
    return true;
  });
}

std::vector<std::shared_ptr<OpenTable>> Tables::AllOpen() const {
  std::vector<std::shared_ptr<OpenTable>> all;
  MutexLock lock(mutex_);
  for (const auto& [key, table] : open_) all.push_back(table);
  return all;
}

// Everything that shrinks or goes gives its memory back.
void Tables::ShrinkShares(const Shares& wanted) {
  std::vector<TierStack::ResizedDram> going;
  for (auto share = dram_shares_.begin(); share != dram_shares_.end();) {
    auto& [stack, bytes] = *share;
    const auto want = wanted.find(stack);
    if (want != wanted.end() && want->second.bytes >= bytes) {
      ++share;
      continue;
    }
    if (want != wanted.end()) {
      if (absl::StatusOr<TierStack::ResizedDram> resized = stack->ResizeDram(want->second.bytes);
          resized.ok()) {
        going.push_back(*std::move(resized));
        bytes = want->second.bytes;
        ++share;
        continue;
      }
    }
    going.push_back({.before = stack->TakeDram(), .now = nullptr});
    share = dram_shares_.erase(share);
  }
  GiveBack(std::move(going));
}

void Tables::GrowShare(TierStack& stack, const Share& wanted) {
  const auto share = dram_shares_.find(&stack);
  if (share != dram_shares_.end()) {
    if (share->second == wanted.bytes) return;
    absl::StatusOr<TierStack::ResizedDram> resized = stack.ResizeDram(wanted.bytes);
    if (resized.ok()) {
      GiveBack({*std::move(resized)});
      share->second = wanted.bytes;
      return;
    }
    if (absl::IsResourceExhausted(resized.status())) {
      ENGRAM_LOG(kError) << "layer " << Raw(stack.spec().id) << " keeps a DRAM tier of "
                         << FormatSize(share->second) << ": " << resized.status().message();
      return;
    }
    GiveBack({{.before = stack.TakeDram(), .now = nullptr}});
  }
  Install(stack, wanted);
}

// First the memory is given back, then it is taken: the budget holds at every moment.
void Tables::ShareOutDram() {
  const Shares wanted = PlanShares();
  const std::vector<std::shared_ptr<OpenTable>> alive = AllOpen();
  ShrinkShares(wanted);
  TrimLeftovers(wanted);
  for (const auto& [stack, share] : wanted) GrowShare(*stack, share);
  // Also for a switch that moves no memory: clients that follow the active version look again.
  segments_->Advance();
  if (options_.dram != nullptr) options_.dram->AfterChange();
  if (options_.hbm != nullptr) options_.hbm->AfterChange();
}

void Tables::Install(TierStack& stack, const Share& share) {
  if (const absl::Status status = stack.InstallDram({.budget_bytes = share.bytes,
                                                     .segments = segments_,
                                                     .table_digest = share.table_digest,
                                                     .admission = options_.admission,
                                                     .helpers = options_.gather_helpers});
      !status.ok()) {
    ENGRAM_LOG(kError) << "layer " << Raw(stack.spec().id) << " gets no DRAM tier of "
                       << FormatSize(share.bytes) << ": " << status.message();
  }
  dram_shares_[&stack] = share.bytes;
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
  const Share share{.bytes = dram_shares_.at(shared.stack),
                    .table_digest = shared.table->record.table_digest};
  GiveBack({{.before = shared.stack->TakeDram(), .now = nullptr}});
  Install(*shared.stack, share);
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
  ShareOutDram();
}

uint64_t Tables::DramBytes() const {
  uint64_t bytes = 0;
  for (const std::shared_ptr<OpenTable>& table : AllOpen()) {
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
  const std::vector<std::shared_ptr<OpenTable>> alive = AllOpen();
  ShrinkShares({});
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
    }
  }
  return result;
}

}  // namespace engram
