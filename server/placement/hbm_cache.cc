#include "server/placement/hbm_cache.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/placement/profile_import.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/profile/row_profile.h"

namespace engram {

using gpu_cache::MemoryKind;

namespace {

// Rows that a refresh may read from the drive to take the place of others. Those that are asked for
// so often are mostly in DRAM; and what look-ups wait for comes first.
constexpr uint64_t kNvmeRowsARefresh = 16384;
// The period of refreshes while the region has free slots.
constexpr std::chrono::milliseconds kFillingPeriod{1000};
// DRAM's units that are looked through between two looks at `stop_`.
constexpr uint64_t kUnitsAtOnce = 4096;

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
  bool lost = false;
  {
    MutexLock lock(mutex_);
    changed_ = true;
    lost = started_ && !on_;
  }
  if (lost) ReportOff();  // what was opened while the tier was being turned off
  wake_.NotifyAll();
}

void HbmCache::TurnOff() {
  ENGRAM_LOG(kError) << "the HBM tier is off from now on: " << failed_.message();
  Withdraw();
  {
    MutexLock lock(arena_mutex_);
    arena_.reset();
  }
  layers_.clear();
  {
    MutexLock lock(mutex_);
    note_ = absl::StrCat("off: ", failed_.message(), "; restart engramd to try again");
    on_ = false;
  }
  ReportOff();
}

// For every open version: a layer whose region was never published has a note, too.
void HbmCache::ReportOff() const {
  const std::string off = note();
  for (const std::shared_ptr<const OpenTable>& table : tables_->AllOpen()) {
    for (const std::unique_ptr<TierStack>& stack : table->layers) {
      stack->hbm().SetSampled(false);
      stack->hbm().SetUsage({.note = off});
    }
  }
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
  if (gpu_cache::Status status = arena_->ShareOut(plan.shares); !status.ok()) {
    arena_.reset();  // half repartitioned: nobody reads it any more, not even to check it
    return status;
  }
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

}  // namespace engram
