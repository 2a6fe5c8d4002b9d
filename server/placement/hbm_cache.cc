#include "server/placement/hbm_cache.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/profile/row_profile.h"

namespace engram {

using gpu_cache::kEmptyTag;
using gpu_cache::kWays;
using gpu_cache::MemoryKind;

namespace {

// Rows that are brought at a time: enough to keep the drive and the bus busy, and a batch under way
// is disturbed by the exchange of so many at most.
constexpr size_t kRowsAtOnce = 2048;
// Sectors that are looked through at a time while nobody else gets at the arena: milliseconds.
constexpr uint32_t kSectorsAtOnce = 1u << 16;
// Rows that a refresh may read from the drive to take the place of others. Those that are asked for
// so often are mostly in DRAM; and what look-ups wait for comes first.
constexpr uint64_t kNvmeRowsARefresh = 16384;
// As long as there is room for more rows, they are brought so soon.
constexpr std::chrono::milliseconds kFillingPeriod{1000};
// DRAM's units that are looked through between two looks at `stop_`.
constexpr uint64_t kUnitsAtOnce = 4096;

std::span<const std::byte> Bytes(absl::Span<const std::byte> bytes) {
  return {bytes.data(), bytes.size()};
}

}  // namespace

HbmCache::HbmCache(const Options& options)
    : options_(options), files_(options.hotness_directory) {
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
  Forget();
  MutexLock lock(arena_mutex_);
  arena_.reset();
}

// Tells no more workers of it.
void HbmCache::Forget() {
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
  Forget();
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
    if (changed) ShareOut();
    if (!failed_.ok()) TurnOff();
    const auto now = std::chrono::steady_clock::now();
    const bool due = now >= next_refresh;
    if (due) next_refresh = now + options_.refresh;
    const bool may_fill = now >= next_filling;
    if (may_fill) next_filling = now + std::min(options_.refresh, kFillingPeriod);
    busy = false;
    for (auto& [id, layer] : layers_) {
      ReadTelemetry(layer);
      if (!layer.seeded) Seed(layer);
      const bool fills = may_fill && layer.choice->wanted_rows() > layer.held_rows;
      if ((due || changed || fills) && !layer.refreshing) {
        layer.refreshing = true;
        layer.next_sector = 0;
        layer.nvme_left = kNvmeRowsARefresh;
      }
      if (layer.refreshing) layer.refreshing = RefreshStep(layer);
      busy = busy || layer.refreshing;
      if (stop_ || !failed_.ok()) break;
    }
    if (!failed_.ok()) TurnOff();
  }
}

// Layers of active versions, in proportion to their bytes.
void HbmCache::ShareOut() {
  std::vector<gpu_cache::Arena::LayerShare> shares;
  std::map<uint32_t, Layer> layers;
  std::set<uint32_t> active;
  for (const std::shared_ptr<const OpenTable>& table : tables_->Active()) {
    const std::string fingerprint = AddressingFingerprint(table->spec());
    for (const std::unique_ptr<TierStack>& stack : table->layers) {
      const LayerSpec& spec = stack->spec();
      shares.push_back({.stack_id = stack->id(),
                        .row_bytes = spec.row_bytes,
                        .layer_rows = spec.rows,
                        .weight = spec.bytes()});
      Layer& layer = layers[stack->id()];
      layer.stack_id = stack->id();
      layer.key = {table->spec().name, fingerprint, spec.id};
    }
  }
  std::sort(shares.begin(), shares.end(),
            [](const auto& a, const auto& b) { return a.stack_id < b.stack_id; });
  gpu_cache::Status status;
  std::map<uint32_t, Place> places;
  {
    MutexLock lock(arena_mutex_);
    status = arena_->ShareOut(shares);
    for (const gpu_cache::Arena::LayerShare& share : shares) {
      if (!status.ok()) break;
      const gpu_cache::Arena::RegionState* const held = arena_->Find(share.stack_id);
      if (held == nullptr) {
        layers.erase(share.stack_id);
        continue;
      }
      places[share.stack_id] = {.arena = arena_->memory().description(), .region = held->region};
      const auto before = layers_.find(share.stack_id);
      if (before != layers_.end() && before->second.choice != nullptr &&
          before->second.choice->shape() == held->shape) {
        layers[share.stack_id] = std::move(before->second);
        layers[share.stack_id].refreshing = false;  // from its beginning: it may be empty now
      } else {
        layers[share.stack_id].choice = std::make_unique<HbmAdmission>(held->shape, share.layer_rows);
      }
    }
  }
  if (!status.ok()) {
    failed_ = status;
    return;
  }
  for (const gpu_cache::Arena::LayerShare& share : shares) active.insert(share.stack_id);
  for (const auto& [id, layer] : layers_) {
    const Tables::SharedStack found = tables_->FindStack(id);
    if (active.contains(id) || found.stack == nullptr) continue;
    found.stack->hbm().SetSampled(false);
    found.stack->hbm().SetUsage({.note = "off: only the active version of a table has HBM"});
  }
  {
    MutexLock lock(mutex_);
    places_ = std::move(places);
  }
  bool is_new = false;
  for (const auto& [id, layer] : layers) is_new = is_new || !layers_.contains(id);
  layers_ = std::move(layers);
  // Workers that attached before look again.
  if (is_new) tables_->segments().Advance();
  for (const uint32_t id : active) {
    const Tables::SharedStack found = tables_->FindStack(id);
    if (found.stack == nullptr) continue;
    if (const auto layer = layers_.find(id); layer != layers_.end()) {
      found.stack->hbm().SetSampled(true);
      Publish(layer->second, found);
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
  for (const RowId id : samples) layer.choice->Access(Raw(id));
}

// What is known before anybody asks: a profile's rows, and what DRAM holds, with its counts.
void HbmCache::Seed(Layer& layer) {
  uint64_t units = 0;
  {
    const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
    if (found.stack == nullptr) return;
    if (!std::exchange(layer.profile_read, true)) {
      // Errors are WarmStart's to report: it reads the same files.
      (void)files_.Read(layer.key, HotnessFiles::Kind::kProfile, found.stack->spec().rows, stop_,
                        [&](uint32_t row, uint32_t level) { layer.choice->Seed(row, level); });
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
                     [&](RowId id, uint32_t count) { layer.choice->Seed(Raw(id), count); });
  }
  layer.seeded = true;
}

// Whether it is worth while to look at DRAM again: it may be filling itself.
bool HbmCache::DramHasMore(const Layer& layer) const {
  const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
  const auto cache = found.stack == nullptr ? nullptr : found.stack->DramToFill();
  return cache != nullptr && cache->Usage().rows > layer.seen_dram_rows + layer.seen_dram_rows / 8;
}

// Compares a stretch of sectors and brings what they lack. False when the region is through.
bool HbmCache::RefreshStep(Layer& layer) {
  std::vector<Wish> wishes = Compare(layer);
  if (!wishes.empty() && !Bring(layer, wishes)) return false;
  const gpu_cache::RegionShape& shape = layer.choice->shape();
  if (layer.next_sector < shape.sectors) return true;
  if (layer.choice->wanted_rows() < shape.Slots() && !shape.direct && DramHasMore(layer)) {
    layer.seeded = false;
  }
  return false;
}

std::vector<HbmCache::Wish> HbmCache::Compare(Layer& layer) const {
  std::vector<Wish> wishes;
  MutexLock lock(arena_mutex_);
  const gpu_cache::Arena::RegionState* const held = arena_->Find(layer.stack_id);
  if (held == nullptr) return wishes;
  uint32_t& sector = layer.next_sector;
  const uint32_t end = std::min(held->shape.sectors - sector, kSectorsAtOnce) + sector;
  for (; sector < end && wishes.size() + kWays <= kRowsAtOnce; ++sector) {
    const std::array<uint32_t, kWays> wanted = layer.choice->Wanted(sector);
    const uint32_t* const tags = &held->tags[uint64_t{sector} * kWays];
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
      const uint32_t slot = held->shape.direct ? way : slots[taken];
      wishes.push_back({.slot = uint64_t{sector} * kWays + slot,
                        .replaces = !held->shape.direct && taken >= free_slots,
                        .row_id = gpu_cache::TagOf(wanted[way])});
      ++taken;
    }
  }
  return wishes;
}

// Which of the rows could be had.
std::vector<bool> HbmCache::FetchRows(Layer& layer, TierStack& stack,
                                       absl::Span<const Wish> wishes,
                                       absl::Span<std::byte> rows) const {
  const uint32_t row_bytes = stack.spec().row_bytes;
  std::vector<bool> there(wishes.size());
  std::vector<RowId> cold;
  std::vector<size_t> positions;
  for (size_t i = 0; i < wishes.size(); ++i) {
    const RowId id{wishes[i].row_id};
    there[i] = stack.PeekDram(id, rows.subspan(i * row_bytes, row_bytes));
    if (there[i]) continue;
    if (wishes[i].replaces && layer.nvme_left == 0) continue;
    if (wishes[i].replaces) --layer.nvme_left;
    cold.push_back(id);
    positions.push_back(i);
  }
  if (cold.empty()) return there;
  std::vector<std::byte> read(cold.size() * row_bytes);
  RowBatch batch(cold, row_bytes, absl::MakeSpan(read));
  stack.ReadStorage(batch);
  std::vector<bool> failed(cold.size());
  for (const RowFailure& failure : batch.failures()) failed[failure.position] = true;
  for (size_t i = 0; i < cold.size(); ++i) {
    if (failed[i]) continue;
    std::copy_n(&read[i * row_bytes], row_bytes, &rows[positions[i] * row_bytes]);
    there[positions[i]] = true;
  }
  return there;
}

bool HbmCache::Bring(Layer& layer, std::vector<Wish>& wishes) {
  const Tables::SharedStack found = tables_->FindStack(layer.stack_id);
  if (found.stack == nullptr) return false;
  const uint32_t row_bytes = found.stack->spec().row_bytes;
  std::vector<std::byte> rows(wishes.size() * row_bytes);
  const std::vector<bool> there = FetchRows(layer, *found.stack, wishes, absl::MakeSpan(rows));
  std::vector<uint64_t> emptied;
  std::vector<gpu_cache::Arena::WriteSlot> puts;
  for (size_t i = 0; i < wishes.size(); ++i) {
    if (!there[i]) continue;
    if (puts.size() != i) {
      std::copy_n(&rows[i * row_bytes], row_bytes, &rows[puts.size() * row_bytes]);
    }
    puts.push_back({.slot = wishes[i].slot, .row_id = wishes[i].row_id});
    if (wishes[i].replaces) emptied.push_back(wishes[i].slot);
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
  Publish(layer, found);
  return true;
}

void HbmCache::Publish(Layer& layer, const Tables::SharedStack& stack) const {
  TierUsage usage{.on = true, .note = note()};
  {
    MutexLock lock(arena_mutex_);
    const gpu_cache::Arena::RegionState* const held = arena_->Find(layer.stack_id);
    if (held == nullptr) return;
    usage.rows = layer.held_rows = held->rows;
    usage.bytes = held->rows * held->shape.row_bytes;
    usage.capacity_bytes = held->shape.Bytes();
  }
  stack.stack->hbm().SetUsage(std::move(usage));
}

std::optional<HbmCache::Place> HbmCache::Find(uint32_t stack_id) const {
  MutexLock lock(mutex_);
  const auto found = places_.find(stack_id);
  return found == places_.end() ? std::nullopt : std::optional<Place>(found->second);
}

// A descriptor of the caller's own: the keeper's may go at any time.
UniqueFd HbmCache::ArenaFile() const {
  MutexLock lock(mutex_);
  if (!arena_file_.valid()) return UniqueFd();
  return UniqueFd(::fcntl(arena_file_.get(), F_DUPFD_CLOEXEC, 0));
}

bool HbmCache::ReadHeld(uint32_t stack_id, absl::Span<const RowId> ids, absl::Span<std::byte> rows,
                         std::vector<bool>& held) const {
  MutexLock lock(arena_mutex_);
  const gpu_cache::Arena::RegionState* const region = arena_ == nullptr ? nullptr : arena_->Find(stack_id);
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
