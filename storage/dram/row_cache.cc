#include "storage/dram/row_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/layout.h"
#include "storage/dram/reader.h"
#include "storage/table/spec.h"

namespace engram {
namespace {

using dram::Found;
using dram::Geometry;
using dram::kWays;

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

// How far the stages of Read run ahead of the copy, in rows. At 264 bytes a row, 8 rows are 40
// cache lines: more than a core keeps in flight, so the memory never waits for us. Measured: 8/16,
// 16/32 and 24/48 differ by less than 5 %.
constexpr size_t kFindAhead = 8;
constexpr size_t kTagsAhead = 16;

// A batch is gathered by several threads in stretches of this many rows: some 40 µs of work each,
// which is what waking a thread costs.
constexpr size_t kRowsPerStretch = 512;

// A set is taken for about the time of one row copy. Beyond this many looks its writer has lost
// its processor, and the row is served by the next tier.
constexpr int kReadAttempts = 32;

// Anonymous memory on a huge-page boundary, unmapped with its owner.
class Mapping {
 public:
  Mapping() = default;
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  absl::Status Map(uint64_t bytes) {
    const uint64_t align = bytes >= kHugePageBytes ? kHugePageBytes : 0;
    void* raw =
        ::mmap(nullptr, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot map ", bytes, " bytes for the DRAM tier: ", std::strerror(errno),
                       "; lower the dram budget"));
    }
    auto* begin = static_cast<std::byte*>(raw);
    if (align > 0) {
      const uint64_t head = -reinterpret_cast<uintptr_t>(begin) % align;
      if (head > 0) ::munmap(begin, head);
      if (align > head) ::munmap(begin + head + bytes, align - head);
      begin += head;
    }
    data_ = begin;
    bytes_ = bytes;
    // A core dump of the daemon must not be as large as its cache. Refusal does no harm.
    (void)::madvise(data_, bytes_, MADV_DONTDUMP);
    note_ = AskForHugePages();
    return absl::OkStatus();
  }

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  const std::string& note() const { return note_; }

 private:
  // Returns how the memory is paged, in words.
  std::string AskForHugePages() const {
    if (bytes_ < kHugePageBytes) return "4 KiB pages (smaller than one huge page)";
    if (::madvise(data_, bytes_, MADV_HUGEPAGE) != 0) {
      return absl::StrCat("4 KiB pages (no transparent huge pages: ", std::strerror(errno), ")");
    }
    // madvise succeeds even where the administrator has turned them off.
    constexpr char kSwitch[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    std::ifstream file(kSwitch);
    std::string setting;
    std::getline(file, setting);
    if (setting.find("[never]") != std::string::npos) {
      return absl::StrCat("4 KiB pages (", kSwitch, " is never)");
    }
    return "transparent huge pages";
  }

  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  std::string note_;
};

}  // namespace

// What came of an offered row.
enum class Stored { kNo, kInsteadOfAnother, kOneMore };

class RowCache::Impl {
 public:
  Impl(WorkPool* helpers, PrefetchCounters* counters)
      : helpers_(helpers), counters_(counters != nullptr ? counters : &own_counters_) {}
  ~Impl() { counters_->unused.fetch_add(MarksLeft(), std::memory_order_relaxed); }
  absl::Status Init(const Geometry& geometry) {
    ENGRAM_RETURN_IF_ERROR(mapping_.Map(geometry.MappedBytes()));
    view_ = dram::View(mapping_.data(), geometry);
    return absl::OkStatus();
  }

  uint32_t row_bytes() const { return view_.geometry().row_bytes; }

  void Read(RowBatch& batch) const;
  void Offer(absl::Span<const RowId> ids, const std::byte* rows, bool prefetched);
  // The way that held the row; −1 if none does.
  Found ReadOne(uint32_t row_id, std::byte* out) const;
  Presence Look(uint32_t row_id) const;
  TierUsage Usage() const;

 private:
  size_t Gather(const RowBatch& batch, absl::Span<uint32_t> positions) const;
  Found ReadFound(const Found& found, uint32_t row_id, std::byte* out) const;
  Stored StoreOne(uint32_t row_id, const std::byte* row, bool prefetched);
  int Evict(uint32_t set);
  // Prefetched rows that nobody has read, in the memory itself.
  uint64_t MarksLeft() const;
  void WriteRow(uint32_t set, int way, const std::byte* row);

  WorkPool* const helpers_;
  PrefetchCounters own_counters_;
  PrefetchCounters* const counters_;
  Mapping mapping_;
  dram::View view_;
  // Statistics only, so relaxed is enough.
  std::atomic<uint64_t> rows_held_{0};
};

void RowCache::Impl::Read(RowBatch& batch) const {
  std::vector<uint32_t>& missing = batch.missing();
  const absl::Span<uint32_t> all = absl::MakeSpan(missing);
  const size_t stretches = (all.size() + kRowsPerStretch - 1) / kRowsPerStretch;
  if (helpers_ == nullptr || stretches < 2) {
    missing.resize(Gather(batch, all));
    return;
  }
  std::vector<size_t> kept(stretches);
  helpers_->Run(stretches, [&](size_t i) {
    kept[i] = Gather(batch, all.subspan(i * kRowsPerStretch, kRowsPerStretch));
  });
  size_t total = 0;
  for (size_t i = 0; i < stretches; ++i) {
    const auto first = all.begin() + i * kRowsPerStretch;
    std::copy(first, first + kept[i], all.begin() + total);
    total += kept[i];
  }
  missing.resize(total);
}

// Fills the rows at these positions, leaves those that are not held at the front of `positions`, in
// their order, and returns how many those are.
//
// Three stages run over the batch, each so far ahead of the next that its memory has arrived by
// then: fetch tags, find the way and fetch the row, copy.
size_t RowCache::Impl::Gather(const RowBatch& batch, absl::Span<uint32_t> positions) const {
  const absl::Span<const RowId> ids = batch.ids();
  const size_t count = positions.size();
  std::array<uint32_t, kTagsAhead> sets;
  std::array<Found, kFindAhead> found;
  size_t kept = 0;
  const bool marks_are_set = counters_->Waiting() > 0;
  uint64_t first_uses = 0;
  // A slot of a ring is read before it is written again in the same step, hence the order.
  for (size_t step = 0; step < count + kTagsAhead; ++step) {
    if (step >= kTagsAhead) {
      const size_t at = step - kTagsAhead;
      const uint32_t position = positions[at];
      const Found read = ReadFound(found[at % kFindAhead], Raw(ids[position]), batch.row(position));
      if (read.way < 0) {
        positions[kept++] = position;
      } else if (view_.MarkUsed(read, marks_are_set)) {
        ++first_uses;
      }
    }
    if (const size_t at = step - (kTagsAhead - kFindAhead);
        step >= kTagsAhead - kFindAhead && at < count) {
      Found& place = found[at % kFindAhead];
      place = view_.Find(Raw(ids[positions[at]]), sets[at % kTagsAhead]);
      if (place.way >= 0) view_.PrefetchRow(place);
    }
    if (step < count) {
      const uint32_t set = view_.SetOf(Raw(ids[positions[step]]));
      sets[step % kTagsAhead] = set;
      view_.PrefetchSet(set);
    }
  }
  if (first_uses > 0) counters_->used.fetch_add(first_uses, std::memory_order_relaxed);
  return kept;
}

// The copying stage for one row: where it was found, or nowhere.
Found RowCache::Impl::ReadFound(const Found& found, uint32_t row_id, std::byte* out) const {
  if ((found.version & 1) == 0) {
    if (found.way < 0) return found;
    view_.Copy(found, out);
    if (view_.Unchanged(found)) return found;
  }
  return ReadOne(row_id, out);
}

Found RowCache::Impl::ReadOne(uint32_t row_id, std::byte* out) const {
  const uint32_t set = view_.SetOf(row_id);
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    const Found found = view_.Find(row_id, set);
    if ((found.version & 1) == 0) {
      if (found.way < 0) return found;
      view_.Copy(found, out);
      if (view_.Unchanged(found)) return found;
    }
    __builtin_ia32_pause();
  }
  return {};
}

RowCache::Presence RowCache::Impl::Look(uint32_t row_id) const {
  const uint32_t set = view_.SetOf(row_id);
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    const Found found = view_.Find(row_id, set);
    const bool unread = found.way >= 0 && view_.IsMarked(found);
    if (view_.Unchanged(found)) {
      if (found.way < 0) return Presence::kAbsent;
      return unread ? Presence::kUnread : Presence::kHeld;
    }
    __builtin_ia32_pause();
  }
  return Presence::kAbsent;
}

void RowCache::Impl::Offer(absl::Span<const RowId> ids, const std::byte* rows, bool prefetched) {
  constexpr size_t kAhead = 8;
  uint64_t added = 0;
  uint64_t stored = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + kAhead < ids.size()) view_.PrefetchSet(view_.SetOf(Raw(ids[i + kAhead])));
    if (ids[i] == kZeroRow) continue;
    const Stored result = StoreOne(Raw(ids[i]), rows + i * row_bytes(), prefetched);
    stored += result != Stored::kNo;
    added += result == Stored::kOneMore;
  }
  if (added > 0) rows_held_.fetch_add(added, std::memory_order_relaxed);
  if (prefetched) counters_->stored.fetch_add(stored, std::memory_order_relaxed);
}

Stored RowCache::Impl::StoreOne(uint32_t row_id, const std::byte* row, bool prefetched) {
  const Found held = view_.Find(row_id, view_.SetOf(row_id));
  if (held.way >= 0 || (held.version & 1) != 0) return Stored::kNo;
  dram::TagLine& line = view_.line(held.set);
  std::atomic_ref<uint32_t> version(line.version);
  // Taking the set at the version that Find saw proves that no writer came between, hence that the
  // row is still not held. Acquire: the set's last writer is done before us.
  uint32_t expected = held.version;
  if (!version.compare_exchange_strong(expected, held.version + 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
    return Stored::kNo;
  }
  // Release fence: whoever reads a word stored below finds an odd or newer version afterwards.
  std::atomic_thread_fence(std::memory_order_release);
  int way = dram::View::MatchWay(line, dram::kEmptyTag);
  const bool added = way >= 0;
  if (!added) way = Evict(held.set);
  std::atomic_ref<uint32_t>(line.tags[way]).store(dram::TagOf(row_id), std::memory_order_relaxed);
  WriteRow(held.set, way, row);
  if (prefetched) {
    const uint64_t mark = uint64_t{1} << (dram::kPrefetchedShift + way);
    std::atomic_ref<uint64_t>(view_.state(held.set)).fetch_or(mark, std::memory_order_relaxed);
  }
  version.store(held.version + 2, std::memory_order_release);
  return added ? Stored::kOneMore : Stored::kInsteadOfAnother;
}

// Second chance: the hand passes over the ways that were used since it last came by, and takes
// the first that was not. The caller has the set, so only readers setting used-bits are beside us.
int RowCache::Impl::Evict(uint32_t set) {
  std::atomic_ref<uint64_t> state(view_.state(set));
  const uint64_t seen = state.load(std::memory_order_relaxed);
  const auto hand = static_cast<uint32_t>(seen >> dram::kHandShift & 0xF);
  uint32_t way = hand;
  uint64_t passed = 0;
  while ((seen >> way & 1) != 0 && (passed & dram::kUsedMask) != dram::kUsedMask) {
    passed |= uint64_t{1} << way;
    way = (way + 1) % kWays;
  }
  // After a full turn the hand is where it began, and that way goes.
  const uint64_t bit = uint64_t{1} << way;
  const uint64_t mark = bit << dram::kPrefetchedShift;
  const uint64_t before = state.fetch_and(~(passed | bit | mark), std::memory_order_relaxed);
  if ((before & mark) != 0) counters_->unused.fetch_add(1, std::memory_order_relaxed);
  state.fetch_xor(uint64_t{hand ^ (way + 1) % kWays} << dram::kHandShift,
                  std::memory_order_relaxed);
  return static_cast<int>(way);
}

uint64_t RowCache::Impl::MarksLeft() const {
  uint64_t marks = 0;
  if (counters_->Waiting() == 0) return marks;
  for (uint32_t set = 0; set < view_.geometry().sets; ++set) {
    const uint64_t state =
        std::atomic_ref<uint64_t>(view_.state(set)).load(std::memory_order_relaxed);
    marks += static_cast<uint64_t>(std::popcount(state >> dram::kPrefetchedShift));
  }
  return marks;
}

void RowCache::Impl::WriteRow(uint32_t set, int way, const std::byte* row) {
  uint64_t* words = view_.row(set, way);
  for (uint32_t at = 0; at < row_bytes(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, row + at, std::min<size_t>(8, row_bytes() - at));
    std::atomic_ref<uint64_t>(words[at / 8]).store(word, std::memory_order_relaxed);
  }
}

TierUsage RowCache::Impl::Usage() const {
  TierUsage usage;
  usage.on = true;
  usage.note = mapping_.note();
  usage.rows = rows_held_.load(std::memory_order_relaxed);
  usage.bytes = usage.rows * row_bytes();
  usage.capacity_bytes = mapping_.bytes();
  return usage;
}

absl::StatusOr<std::unique_ptr<RowCache>> RowCache::Create(uint64_t budget_bytes,
                                                           uint32_t row_bytes, uint64_t max_rows,
                                                           WorkPool* helpers,
                                                           PrefetchCounters* counters) {
  if (row_bytes == 0 || row_bytes > kMaxRowBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("row_bytes is ", row_bytes, "; a row has 1 to ", kMaxRowBytes, " bytes"));
  }
  if (max_rows > kMaxLayerRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_rows is ", max_rows, "; a layer has at most ", kMaxLayerRows));
  }
  const Geometry geometry = dram::FitGeometry(budget_bytes, row_bytes, max_rows);
  if (geometry.sets == 0) {
    const Geometry least{.row_bytes = row_bytes, .sets = 1};
    return absl::InvalidArgumentError(absl::StrCat(
        "a DRAM budget of ", budget_bytes, " bytes is too small for rows of ", row_bytes,
        " bytes: the least is ", least.MappedBytes(), " bytes; raise it, or turn the tier off"));
  }
  auto impl = std::make_unique<Impl>(helpers, counters);
  ENGRAM_RETURN_IF_ERROR(impl->Init(geometry));
  return std::unique_ptr<RowCache>(new RowCache(std::move(impl)));
}

RowCache::RowCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RowCache::~RowCache() = default;

void RowCache::Read(RowBatch& batch) {
  // Rows of another size are not ours; leaving them missing is always right.
  if (batch.row_bytes() == impl_->row_bytes()) impl_->Read(batch);
}

TierUsage RowCache::Usage() const { return impl_->Usage(); }

void RowCache::Offer(absl::Span<const RowId> ids, absl::Span<const std::byte> rows, Source source) {
  assert(rows.size() == ids.size() * impl_->row_bytes());
  impl_->Offer(ids, rows.data(), source == Source::kPrefetch);
}

bool RowCache::Peek(RowId id, absl::Span<std::byte> out) const {
  if (id == kZeroRow || out.size() != impl_->row_bytes()) return false;
  return impl_->ReadOne(Raw(id), out.data()).way >= 0;
}

RowCache::Presence RowCache::Look(RowId id) const {
  return id == kZeroRow ? Presence::kAbsent : impl_->Look(Raw(id));
}

}  // namespace engram
