#include "server/placement/hbm_cache.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/placement/profile_import.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/profile/row_profile.h"

namespace engram {

using gpu_cache::kEmptyTag;
using gpu_cache::kWays;
using gpu_cache::MemoryKind;

namespace {

// Rows that are written at a time: enough to keep the drive and the bus busy, and a batch under way
// sees at most so many replaced.
constexpr size_t kRowsAtOnce = 2048;
// Sectors that are compared under one hold of the arena's lock: milliseconds.
constexpr uint32_t kSectorsAtOnce = 1u << 16;
// Rows that a refresh may read from the drive to take the place of others. Those that are asked for
// so often are mostly in DRAM; and what look-ups wait for comes first.
constexpr uint64_t kNvmeRowsARefresh = 16384;
// The period of refreshes while the region has free slots.
constexpr std::chrono::milliseconds kFillingPeriod{1000};
// DRAM's units that are looked through between two looks at `stop_`.
constexpr uint64_t kUnitsAtOnce = 4096;

std::span<const std::byte> Bytes(absl::Span<const std::byte> bytes) {
  return {bytes.data(), bytes.size()};
}

}  // namespace

HbmCache::HbmCache(const Options& options) : options_(options), files_(options.hotness_directory) {
  if (options_.budget_bytes == 0) {
    MutexLock lock(mutex_);
    note_ = "off: its budget is 0";
    return;
  }
  Open();
}

HbmCache::~HbmCache() { Stop(); }

void HbmCache::Open() {
  gpu_cache::Status status;
  if (options_.open) {
    status = options_.open(backend_);
  } else if (options_.memory == Memory::kHost) {
    backend_ = gpu_cache::HostBackend();
  } else {
    status = gpu_cache::OpenCuda(options_.gpu, backend_);
  }
  MemoryKind kind = options_.memory == Memory::kHost ? MemoryKind::kHost : MemoryKind::kCudaVmm;
  std::unique_ptr<gpu_cache::Arena> arena;
  if (status.ok()) {
    const uint64_t free_bytes = backend_->FreeBytes();
    if (free_bytes < options_.budget_bytes) {
      status = {gpu_cache::Code::kExhausted,
                absl::StrCat(backend_->name(), " has ", FormatSize(free_bytes),
                             " of free memory, less than the budget of ",
                             FormatSize(options_.budget_bytes))};
    } else {
      status = gpu_cache::Arena::Create(*backend_, options_.budget_bytes, kind, arena);
    }
  }
  if (status.code() == gpu_cache::Code::kUnsupported && backend_ != nullptr &&
      options_.memory == Memory::kGpuWritable) {
    kind = MemoryKind::kCudaIpc;
    status = gpu_cache::Arena::Create(*backend_, options_.budget_bytes, kind, arena);
  }
  MutexLock lock(mutex_);
  if (!status.ok()) {
    note_ = absl::StrCat("off: ", status.message());
    return;
  }
  on_ = true;
  const int exported = arena->memory().export_fd();
  if (exported >= 0) arena_file_ = UniqueFd(::fcntl(exported, F_DUPFD_CLOEXEC, 0));
  note_ = absl::StrCat(backend_->name(), ", ", FormatSize(arena->bytes()));
  if (kind == MemoryKind::kCudaVmm) absl::StrAppend(&note_, ", which workers map read-only");
  if (kind == MemoryKind::kCudaIpc) {
    absl::StrAppend(&note_, ", which workers could write (CUDA IPC: hbm_memory is gpu-writable)");
  }
  MutexLock arena_lock(arena_mutex_);
  arena_ = std::move(arena);
}

std::string HbmCache::note() const {
  MutexLock lock(mutex_);
  return note_;
}

void HbmCache::Start(const Tables* tables) {
  MutexLock lock(mutex_);
  tables_ = tables;
  if (!on_) return;
  started_ = true;
  changed_ = true;
  thread_ = std::thread([this] { Run(); });
}

void HbmCache::Stop() {
  {
    MutexLock lock(mutex_);
    if (!started_) return;
    started_ = false;
    stop_ = true;
  }
  wake_.NotifyAll();
  thread_.join();
  Withdraw();
  MutexLock lock(arena_mutex_);
  arena_.reset();
}

// From now on no worker gets the arena.
void HbmCache::Withdraw() {
  MutexLock lock(mutex_);
  places_.clear();
  arena_file_ = UniqueFd();
}

void HbmCache::AfterChange() {
  {
    MutexLock lock(mutex_);
    changed_ = true;
  }
  wake_.NotifyAll();
}

void HbmCache::TurnOff() {
  ENGRAM_LOG(kError) << "the HBM tier is off from now on: " << failed_.message();
  const std::string note =
      absl::StrCat("off: ", failed_.message(), "; restart engramd to try again");
  Withdraw();
  {
    MutexLock lock(arena_mutex_);
    arena_.reset();
  }
  for (const auto& [id, layer] : layers_) {
    const Tables::SharedStack found = tables_->FindStack(id);
    if (found.stack == nullptr) continue;
    found.stack->hbm().SetSampled(false);
    found.stack->hbm().SetUsage({.note = note});
  }
  layers_.clear();
  MutexLock lock(mutex_);
  note_ = note;
  on_ = false;
}

void HbmCache::Run() {
  auto next_refresh = std::chrono::steady_clock::now();
  auto next_filling = next_refresh;
  bool busy = false;
  while (true) {
    bool changed = false;
    {
      MutexLock lock(mutex_);
      if (!changed_ && !stop_ && !busy) wake_.WaitFor(mutex_, options_.round);
      if (stop_ || !on_) return;
      changed = std::exchange(changed_, false);
    }
    if (changed) Repartition();
    if (!failed_.ok()) return TurnOff();
    const auto now = std::chrono::steady_clock::now();
    const bool due = now >= next_refresh;
    if (due) next_refresh = now + options_.refresh;
    const bool may_fill = now >= next_filling;
    if (may_fill) next_filling = now + std::min(options_.refresh, kFillingPeriod);
    busy = false;
    for (auto& [id, layer] : layers_) {
      ReadTelemetry(layer);
      if (!layer.seeded) Seed(layer);
      const bool fills = may_fill && layer.admission->wanted_rows() > layer.held_rows;
      if ((due || changed || fills) && !layer.refreshing) {
        layer.refreshing = true;
        layer.next_sector = 0;
        layer.nvme_left = kNvmeRowsARefresh;
      }
      if (layer.refreshing) layer.refreshing = RefreshStep(layer);
      busy = busy || layer.refreshing;
      if (stop_ || !failed_.ok()) break;
    }
    if (!failed_.ok()) return TurnOff();
  }
}

void HbmCache::Repartition() {
  RegionPlan plan = PlanRegions();
  failed_ = AdoptRegions(plan);
  if (failed_.ok()) PublishRegions(std::move(plan));
}

// Layers of active versions, in proportion to their bytes.
HbmCache::RegionPlan HbmCache::PlanRegions() const {
  RegionPlan plan;
  for (const std::shared_ptr<const OpenTable>& table : tables_->Active()) {
    const std::string fingerprint = AddressingFingerprint(table->spec());
    for (const std::unique_ptr<TierStack>& stack : table->layers) {
      const LayerSpec& spec = stack->spec();
      plan.shares.push_back({.stack_id = stack->id(),
                             .row_bytes = spec.row_bytes,
                             .layer_rows = spec.rows,
                             .weight = spec.bytes()});
      Layer& layer = plan.layers[stack->id()];
      layer.stack_id = stack->id();
      layer.key = {table->spec().name, fingerprint, spec.id};
    }
  }
  std::sort(plan.shares.begin(), plan.shares.end(),
            [](const auto& a, const auto& b) { return a.stack_id < b.stack_id; });
  return plan;
}

// Repartitions the arena. Layers whose region keeps its shape keep what is known of their rows;
// those without a region leave the plan.
gpu_cache::Status HbmCache::AdoptRegions(RegionPlan& plan) {
  MutexLock lock(arena_mutex_);
  if (gpu_cache::Status status = arena_->ShareOut(plan.shares); !status.ok()) return status;
  for (const gpu_cache::Arena::LayerShare& share : plan.shares) {
    const gpu_cache::Arena::RegionState* const region = arena_->Find(share.stack_id);
    if (region == nullptr) {
      plan.layers.erase(share.stack_id);
      continue;
    }
    plan.places[share.stack_id] = {.arena = arena_->memory().description(),
                                   .region = region->region};
    Layer& layer = plan.layers[share.stack_id];
    const auto before = layers_.find(share.stack_id);
    if (before != layers_.end() && before->second.admission->shape() == region->shape) {
      layer = std::move(before->second);
      layer.refreshing = false;  // from its beginning: the region may be empty now
    } else {
      layer.admission = std::make_unique<HbmAdmission>(region->shape, share.layer_rows);
    }
  }
  return {};
}

// Makes the plan the present: to workers, to the layers' access logs and to `stats`.
void HbmCache::PublishRegions(RegionPlan plan) {
  const auto is_active = [&](uint32_t id) {
    return std::any_of(plan.shares.begin(), plan.shares.end(),
                       [&](const auto& share) { return share.stack_id == id; });
  };
  for (const auto& [id, layer] : layers_) {
    const Tables::SharedStack found = tables_->FindStack(id);
    if (is_active(id) || found.stack == nullptr) continue;
    found.stack->hbm().SetSampled(false);
    found.stack->hbm().SetUsage({.note = "off: only the active version of a table has HBM"});
  }
  {
    MutexLock lock(mutex_);
    places_ = std::move(plan.places);
  }
  bool is_new = false;
  for (const auto& [id, layer] : plan.layers) is_new = is_new || !layers_.contains(id);
  layers_ = std::move(plan.layers);
  // Workers that attached before look again.
  if (is_new) tables_->segments().Advance();
  for (const gpu_cache::Arena::LayerShare& share : plan.shares) {
    const Tables::SharedStack found = tables_->FindStack(share.stack_id);
    if (found.stack == nullptr) continue;
    if (const auto layer = layers_.find(share.stack_id); layer != layers_.end()) {
      found.stack->hbm().SetSampled(true);
      PublishUsage(layer->second, found);
    } else {
      found.stack->hbm().SetUsage({.note = "off: the budget leaves no room for this layer"});
    }
  }
}

void HbmCache::ReadTelemetry(Layer& layer) {
  std::vector<RowId> samples;
  {
    const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
    if (found.stack == nullptr) return;
    samples = found.stack->hbm().TakeSamples();
  }
  for (const RowId id : samples) layer.admission->Access(Raw(id));
}

// Seeds the counts with a profile's rows, and with what DRAM holds.
void HbmCache::Seed(Layer& layer) {
  uint64_t units = 0;
  {
    const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
    if (found.stack == nullptr) return;
    if (!std::exchange(layer.profile_read, true)) {
      // Errors are WarmStart's to report: it reads the same files.
      const HotRunVisitor seed = [&layer](const HotRun& run) {
        for (const RowId id : run.ids) layer.admission->Seed(Raw(id), run.count);
        return absl::OkStatus();
      };
      (void)files_.Read(layer.key, HotnessFiles::Kind::kProfile, found.stack->spec().rows, stop_,
                        ByLevel(seed));
    }
    if (const auto cache = found.stack->DramToFill(); cache != nullptr) {
      units = cache->Units();
      layer.seen_dram_rows = cache->Usage().rows;
    }
  }
  for (uint64_t first = 0; first < units && !stop_; first += kUnitsAtOnce) {
    const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
    const auto cache = found.stack == nullptr ? nullptr : found.stack->DramToFill();
    if (cache == nullptr) break;
    cache->VisitHeld(first, kUnitsAtOnce,
                     [&](RowId id, uint32_t count) { layer.admission->Seed(Raw(id), count); });
  }
  layer.seeded = true;
}

// Whether it is worth while to look at DRAM again: it may be filling itself.
bool HbmCache::DramHasMore(const Layer& layer) const {
  const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
  const auto cache = found.stack == nullptr ? nullptr : found.stack->DramToFill();
  return cache != nullptr && cache->Usage().rows > layer.seen_dram_rows + layer.seen_dram_rows / 8;
}

// Compares some sectors with what belongs there and writes the difference. False at the end of the
// region, or when it cannot go on.
bool HbmCache::RefreshStep(Layer& layer) {
  std::vector<SlotWrite> writes = Compare(layer);
  if (!writes.empty() && !WriteRows(layer, writes)) return false;
  const gpu_cache::RegionShape& shape = layer.admission->shape();
  if (layer.next_sector < shape.sectors) return true;
  if (layer.admission->wanted_rows() < shape.Slots() && !shape.direct && DramHasMore(layer)) {
    layer.seeded = false;
  }
  return false;
}

std::vector<HbmCache::SlotWrite> HbmCache::Compare(Layer& layer) const {
  std::vector<SlotWrite> writes;
  MutexLock lock(arena_mutex_);
  const gpu_cache::Arena::RegionState* const region = arena_->Find(layer.stack_id);
  if (region == nullptr) return writes;
  uint32_t& sector = layer.next_sector;
  const uint32_t end = std::min(region->shape.sectors - sector, kSectorsAtOnce) + sector;
  for (; sector < end && writes.size() + kWays <= kRowsAtOnce; ++sector) {
    const std::array<uint32_t, kWays> wanted = layer.admission->Wanted(sector);
    const uint32_t* const tags = &region->tags[uint64_t{sector} * kWays];
    // Free slots first, then those of rows that are not wanted any more.
    std::array<uint32_t, kWays> slots{};
    uint32_t free_slots = 0;
    uint32_t usable = 0;
    for (uint32_t way = 0; way < kWays; ++way) {
      if (tags[way] == kEmptyTag) slots[usable++] = way;
    }
    free_slots = usable;
    for (uint32_t way = 0; way < kWays; ++way) {
      const bool stays = tags[way] == kEmptyTag ||
                         std::find(wanted.begin(), wanted.end(), tags[way]) != wanted.end();
      if (!stays) slots[usable++] = way;
    }
    uint32_t taken = 0;
    for (uint32_t way = 0; way < kWays; ++way) {
      if (wanted[way] == kEmptyTag || std::find(tags, tags + kWays, wanted[way]) != tags + kWays) {
        continue;
      }
      const uint32_t slot = region->shape.direct ? way : slots[taken];
      writes.push_back({.slot = uint64_t{sector} * kWays + slot,
                        .replaces = !region->shape.direct && taken >= free_slots,
                        .row_id = gpu_cache::TagOf(wanted[way])});
      ++taken;
    }
  }
  return writes;
}

// Reads the rows of `writes` into `rows`, and says which of them it got.
std::vector<bool> HbmCache::FetchRows(Layer& layer, TierStack& stack,
                                      absl::Span<const SlotWrite> writes,
                                      absl::Span<std::byte> rows) const {
  const uint32_t row_bytes = stack.spec().row_bytes;
  std::vector<bool> fetched(writes.size());
  std::vector<RowId> cold;
  std::vector<size_t> positions;
  for (size_t i = 0; i < writes.size(); ++i) {
    const RowId id{writes[i].row_id};
    fetched[i] = stack.PeekDram(id, rows.subspan(i * row_bytes, row_bytes));
    if (fetched[i]) continue;
    if (writes[i].replaces && layer.nvme_left == 0) continue;
    if (writes[i].replaces) --layer.nvme_left;
    cold.push_back(id);
    positions.push_back(i);
  }
  if (cold.empty()) return fetched;
  std::vector<std::byte> read(cold.size() * row_bytes);
  RowBatch batch(cold, row_bytes, absl::MakeSpan(read));
  stack.ReadStorage(batch);
  std::vector<bool> failed(cold.size());
  for (const RowFailure& failure : batch.failures()) failed[failure.position] = true;
  for (size_t i = 0; i < cold.size(); ++i) {
    if (failed[i]) continue;
    std::copy_n(&read[i * row_bytes], row_bytes, &rows[positions[i] * row_bytes]);
    fetched[positions[i]] = true;
  }
  return fetched;
}

bool HbmCache::WriteRows(Layer& layer, absl::Span<const SlotWrite> writes) {
  const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
  if (found.stack == nullptr) return false;
  const uint32_t row_bytes = found.stack->spec().row_bytes;
  std::vector<std::byte> rows(writes.size() * row_bytes);
  const std::vector<bool> fetched = FetchRows(layer, *found.stack, writes, absl::MakeSpan(rows));
  std::vector<uint64_t> emptied;
  std::vector<gpu_cache::Arena::WriteSlot> puts;
  for (size_t i = 0; i < writes.size(); ++i) {
    if (!fetched[i]) continue;
    if (puts.size() != i) {
      std::copy_n(&rows[i * row_bytes], row_bytes, &rows[puts.size() * row_bytes]);
    }
    puts.push_back({.slot = writes[i].slot, .row_id = writes[i].row_id});
    if (writes[i].replaces) emptied.push_back(writes[i].slot);
  }
  rows.resize(puts.size() * row_bytes);
  gpu_cache::Status status;
  {
    MutexLock lock(arena_mutex_);
    if (arena_->Find(layer.stack_id) == nullptr) return false;
    status = arena_->Replace(layer.stack_id, emptied, puts, Bytes(rows));
  }
  if (!status.ok()) {
    failed_ = status;
    return false;
  }
  PublishUsage(layer, found);
  return true;
}

void HbmCache::PublishUsage(Layer& layer, const Tables::SharedStack& stack) const {
  TierUsage usage{.on = true, .note = note()};
  {
    MutexLock lock(arena_mutex_);
    const gpu_cache::Arena::RegionState* const region = arena_->Find(layer.stack_id);
    if (region == nullptr) return;
    usage.rows = layer.held_rows = region->rows;
    usage.bytes = region->rows * region->shape.row_bytes;
    usage.capacity_bytes = region->shape.Bytes();
  }
  stack.stack->hbm().SetUsage(std::move(usage));
}

std::optional<HbmCache::Place> HbmCache::Find(uint32_t stack_id) const {
  MutexLock lock(mutex_);
  const auto found = places_.find(stack_id);
  return found == places_.end() ? std::nullopt : std::optional<Place>(found->second);
}

// A duplicate: the cache may close its own at any time.
UniqueFd HbmCache::ArenaFile() const {
  MutexLock lock(mutex_);
  if (!arena_file_.valid()) return UniqueFd();
  return UniqueFd(::fcntl(arena_file_.get(), F_DUPFD_CLOEXEC, 0));
}

bool HbmCache::ReadHeld(uint32_t stack_id, absl::Span<const RowId> ids, absl::Span<std::byte> rows,
                        std::vector<bool>& held) const {
  MutexLock lock(arena_mutex_);
  const gpu_cache::Arena::RegionState* const region =
      arena_ == nullptr ? nullptr : arena_->Find(stack_id);
  if (region == nullptr) return false;
  const uint32_t row_bytes = region->shape.row_bytes;
  held.assign(ids.size(), false);
  std::vector<uint64_t> slots;
  std::vector<size_t> positions;
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint32_t sector =
        gpu_cache::SectorOf(Raw(ids[i]), region->shape.sectors, region->shape.direct);
    if (ids[i] == RowId::kDeadPosition || sector >= region->shape.sectors) continue;
    for (uint64_t slot = uint64_t{sector} * kWays; slot < (uint64_t{sector} + 1) * kWays; ++slot) {
      if (region->tags[slot] != gpu_cache::TagOf(Raw(ids[i]))) continue;
      slots.push_back(slot);
      positions.push_back(i);
    }
  }
  std::vector<std::byte> read(slots.size() * row_bytes);
  if (!arena_->Read(stack_id, slots, {read.data(), read.size()}).ok()) return false;
  for (size_t i = 0; i < slots.size(); ++i) {
    held[positions[i]] = true;
    std::copy_n(&read[i * row_bytes], row_bytes, &rows[positions[i] * row_bytes]);
  }
  return true;
}

}  // namespace engram
