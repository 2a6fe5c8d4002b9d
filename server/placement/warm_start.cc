#include "server/placement/warm_start.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/placement/profile_import.h"
#include "server/placement/row_filler.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/profile/row_profile.h"

namespace engram {
namespace {

// A cache is looked through in pieces of so many sets (or rows), between which it is let go of.
constexpr uint64_t kUnitsPerPiece = 4096;
// A row in a hotness file, with its share of runs and digests.
constexpr uint64_t kBytesPerRow = 5;
// Rows behind those that look-ups have shown take the place of nothing that was asked for.
constexpr uint32_t kBehind = 1;

std::string Title(const HotnessFiles::Key& key) {
  return absl::StrCat("table '", key.table, "' layer ", Raw(key.layer));
}

// Grows with each access and each row: equal numbers mean that nothing has happened.
uint64_t Activity(const TierStack& stack, const RowCache& cache) {
  uint64_t sum = cache.Usage().rows;
  for (const std::atomic<uint64_t>& hits : stack.probe().hits) {
    sum += hits.load(std::memory_order_relaxed);
  }
  return sum;
}

const char* NameOf(HotnessFiles::Kind kind) {
  return kind == HotnessFiles::Kind::kLive ? "what was held before" : "its profile";
}

}  // namespace

WarmStart::WarmStart(Options options) : options_(std::move(options)), files_(options_.directory) {
  files_.CleanUp(options_.keep_live);
}

WarmStart::~WarmStart() { Stop(); }

void WarmStart::Start(const Tables* tables) {
  tables_ = tables;
  {
    MutexLock lock(mutex_);
    started_ = true;
  }
  thread_ = std::thread([this] { Run(); });
}

void WarmStart::Stop() {
  {
    MutexLock lock(mutex_);
    if (!started_) return;
    started_ = false;
    stop_ = true;
  }
  wake_.NotifyAll();
  thread_.join();
  if (options_.keep_live) {
    SaveAll();
  } else {
    files_.CleanUp(false);
  }
}

absl::Status WarmStart::TakeProfile(const std::string& path, const TableSpec& spec) {
  {
    MutexLock lock(import_mutex_);
    ENGRAM_RETURN_IF_ERROR(ImportProfile(path, spec, files_));
  }
  {
    MutexLock lock(mutex_);
    asked_.emplace(spec.name, AddressingFingerprint(spec));
  }
  AfterChange();
  return absl::OkStatus();
}

bool WarmStart::Idle() const {
  MutexLock lock(mutex_);
  return started_ && !changed_ && !at_work_;
}

void WarmStart::BeforeSwitch(const OpenTable& outgoing) {
  {
    MutexLock lock(mutex_);
    if (!started_) return;
  }
  for (const Layer& layer : LayersOf(outgoing)) Save(layer);
}

void WarmStart::AfterChange() {
  {
    MutexLock lock(mutex_);
    changed_ = true;
  }
  wake_.NotifyAll();
}

void WarmStart::AfterDrop(absl::string_view table, const std::vector<TableRecord>& left) {
  std::set<std::string> wanted;
  for (const TableRecord& record : left) {
    if (record.spec.name == table) wanted.insert(AddressingFingerprint(record.spec));
  }
  MutexLock lock(save_mutex_);
  files_.KeepOnly(table, wanted);
}

std::vector<WarmStart::Layer> WarmStart::LayersOf(const OpenTable& table) {
  const std::string fingerprint = AddressingFingerprint(table.spec());
  std::vector<Layer> layers;
  for (const std::unique_ptr<TierStack>& stack : table.layers) {
    layers.push_back(
        {stack->id(), {table.spec().name, fingerprint, stack->spec().id}, stack->spec().rows});
  }
  return layers;
}

void WarmStart::Run() {
  auto next_save = std::chrono::steady_clock::now() + options_.save_interval;
  while (true) {
    bool changed = false;
    {
      MutexLock lock(mutex_);
      at_work_ = false;
      const auto left = next_save - std::chrono::steady_clock::now();
      if (!changed_ && !stop_ && left.count() > 0) wake_.WaitFor(mutex_, left);
      if (stop_) return;
      changed = std::exchange(changed_, false);
      at_work_ = true;
    }
    if (changed) Round();
    if (std::chrono::steady_clock::now() < next_save) continue;
    next_save = std::chrono::steady_clock::now() + options_.save_interval;
    if (options_.keep_live) SaveAll();
  }
}

// Looks at every cache that there is now. What changes meanwhile makes another round.
void WarmStart::Round() {
  std::set<Addressing> asked;
  {
    MutexLock lock(mutex_);
    asked.swap(asked_);
  }
  // Tables are let go of at once: filling may take minutes, and drops wait for them.
  std::vector<Layer> layers;
  std::set<uint32_t> stacks;
  for (std::shared_ptr<const OpenTable>& table : tables_->Active()) {
    TakeConfigured(*table);
    for (Layer& layer : LayersOf(*table)) {
      stacks.insert(layer.stack_id);
      layers.push_back(std::move(layer));
    }
    table = nullptr;
  }
  {
    MutexLock lock(mutex_);
    std::erase_if(states_, [&](const auto& state) { return !stacks.contains(state.first); });
  }
  for (const Layer& layer : layers) {
    if (stop_) return;
    PlaceIn(layer, asked.contains({layer.key.table, layer.key.fingerprint}));
  }
}

void WarmStart::TakeConfigured(const OpenTable& table) {
  for (const auto& [name, path] : options_.profiles) {
    if (name != table.spec().name) continue;
    if (!configured_.emplace(name, AddressingFingerprint(table.spec())).second) continue;
    MutexLock lock(import_mutex_);
    const absl::Status status = ImportProfile(path, table.spec(), files_);
    if (status.ok()) continue;
    ENGRAM_LOG(kError) << "the profile of table '" << name << "' is not used: " << status.message();
    for (const std::unique_ptr<TierStack>& stack : table.layers) {
      stack->SetDramRemark(absl::StrCat("profile not used: ", status.message()));
    }
  }
}

void WarmStart::PlaceIn(const Layer& layer, bool asked) {
  const CacheHandle cache(tables_, layer.stack_id);
  uint64_t held_rows = 0;
  uint64_t slots = 0;
  if (const CacheHandle::Held held = cache.Get(); held.cache != nullptr) {
    held_rows = held.cache->Usage().rows;
    slots = held.cache->shape().Slots();
  } else {
    return;
  }
  bool is_new = false;
  {
    MutexLock lock(mutex_);
    const auto known = states_.find(layer.stack_id);
    is_new = known == states_.end() || !known->second.cache.SameAs(cache) || !known->second.settled;
    if (!is_new && !asked) return;
    states_[layer.stack_id] = {.cache = cache, .settled = !is_new, .saved_at = 0};
  }
  // What an earlier daemon has left in memory is what would be placed.
  const bool taken_over = held_rows >= slots / 2 && held_rows > 0;
  uint64_t live_rows = 0;
  if (is_new && !taken_over) live_rows = PlaceFrom(layer, cache, Kind::kLive, dram::kMaxCount);
  if (asked || !taken_over) {
    const bool behind = live_rows >= slots / 2 && !asked;
    PlaceFrom(layer, cache, Kind::kProfile, behind ? kBehind : dram::kMaxCount);
  }
  if (stop_) return;
  MutexLock lock(mutex_);
  const auto state = states_.find(layer.stack_id);
  if (state != states_.end() && state->second.cache.SameAs(cache)) state->second.settled = true;
}

uint64_t WarmStart::PlaceFrom(const Layer& layer, const CacheHandle& cache, Kind kind,
                              uint32_t most) {
  const auto begin = std::chrono::steady_clock::now();
  const RowFiller::List list = [&](const HotRunVisitor& visit) {
    return files_.Read(layer.key, kind, layer.rows, stop_,
                       kind == Kind::kLive ? visit : ByLevel(visit));
  };
  const absl::StatusOr<NumberHistogram> rows = RowFiller::Survey(list);
  if (!rows.ok()) {
    if (!absl::IsNotFound(rows.status()) && !absl::IsCancelled(rows.status())) {
      ENGRAM_LOG(kWarning) << "DRAM of " << Title(layer.key) << " is not filled from "
                           << NameOf(kind) << ": " << rows.status().message();
    }
    return 0;
  }
  uint64_t listed = 0;
  for (const uint64_t number : *rows) listed += number;
  uint64_t slots = 0;
  if (const CacheHandle::Held held = cache.Get(); held.cache != nullptr) {
    slots = held.cache->shape().Slots();
  }
  ENGRAM_LOG(kInfo) << "filling DRAM of " << Title(layer.key) << " from " << NameOf(kind) << ": "
                    << listed << " rows, room for " << slots;
  RowFiller filler(cache, &stop_);
  const absl::StatusOr<RowFiller::Result> result = filler.Fill(
      list, *rows, kind == Kind::kLive ? LiveScale() : ProfileScale(*rows, slots), most);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!result.ok()) {
    const std::string text =
        absl::StrCat("filling DRAM of ", Title(layer.key), " from ", NameOf(kind),
                     " ended early: ", result.status().message());
    if (absl::IsCancelled(result.status())) {
      ENGRAM_LOG(kInfo) << text;
    } else {
      ENGRAM_LOG(kWarning) << text;
    }
    return listed;
  }
  ENGRAM_LOG(kInfo) << "filled DRAM of " << Title(layer.key) << " from " << NameOf(kind) << ": "
                    << result->placed << " rows placed in " << absl::StrFormat("%.1f", seconds)
                    << " s"
                    << (result->failed == 0
                            ? ""
                            : absl::StrCat("; ", result->failed, " could not be read"));
  return listed;
}

void WarmStart::SaveAll() {
  std::vector<Layer> layers;
  for (std::shared_ptr<const OpenTable>& table : tables_->Active()) {
    for (Layer& layer : LayersOf(*table)) layers.push_back(std::move(layer));
    table = nullptr;
  }
  for (const Layer& layer : layers) Save(layer);
}

void WarmStart::Save(const Layer& layer) {
  MutexLock saving(save_mutex_);
  CacheHandle cache;
  uint64_t saved_at = 0;
  {
    MutexLock lock(mutex_);
    const auto state = states_.find(layer.stack_id);
    if (state == states_.end() || !state->second.settled) return;
    cache = state->second.cache;
    saved_at = state->second.saved_at;
  }
  uint64_t activity = 0;
  if (const CacheHandle::Held held = cache.Get(); held.cache != nullptr) {
    activity = Activity(*held.stack, *held.cache);
  } else {
    return;
  }
  if (activity == saved_at) return;
  const absl::Status status = WriteLive(layer, cache);
  if (absl::IsCancelled(status)) return;
  if (!status.ok()) {
    ENGRAM_LOG(kWarning) << "what DRAM of " << Title(layer.key)
                         << " holds is not saved: " << status.message();
    return;
  }
  MutexLock lock(mutex_);
  if (const auto state = states_.find(layer.stack_id);
      state != states_.end() && state->second.cache.SameAs(cache)) {
    state->second.saved_at = activity;
  }
}

absl::Status WarmStart::WriteLive(const Layer& layer, const CacheHandle& cache) {
  uint64_t units = 0;
  uint64_t bytes = 0;
  if (const CacheHandle::Held held = cache.Get(); held.cache != nullptr) {
    units = held.cache->Units();
    bytes = held.cache->Usage().rows * kBytesPerRow;
  }
  LayerProfile outline;
  outline.rows = layer.rows;
  return files_.Write(
      layer.key, Kind::kLive, outline, bytes, [&](HotWriter& writer) -> absl::Status {
        std::vector<std::pair<RowId, uint32_t>> rows;
        for (uint64_t first = 0; first < units; first += kUnitsPerPiece) {
          {
            const std::shared_ptr<RowCache> held = cache.Get().cache;
            if (held == nullptr) return absl::CancelledError("the cache is gone");
            held->VisitHeld(first, kUnitsPerPiece,
                            [&](RowId id, uint32_t count) { rows.emplace_back(id, count); });
          }
          for (const auto& [id, count] : rows) {
            // What a client has said of rows is believed here, but not that there are more of them.
            if (Raw(id) < layer.rows) ENGRAM_RETURN_IF_ERROR(writer.Add(id, count));
          }
          rows.clear();
        }
        return absl::OkStatus();
      });
}

}  // namespace engram
