#include "storage/profile/row_counter.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "storage/base/direct_memory.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/table/ngram_hasher.h"
#include "storage/table/token_map.h"

namespace engram {
namespace {

using Counter = uint16_t;
constexpr uint64_t kCounterValues = uint64_t{1} << 16;
// Positions hashed at a time, whose ids stay in the cache.
constexpr size_t kBlockPositions = 512;
// Positions whose counters are on their way from memory.
constexpr size_t kPrefetchPositions = 4;
// So many candidates more than wanted are kept before the least of them are given up.
constexpr uint64_t kSpareCandidates = 4096;

// A stretch of consecutive rows of a layer.
struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t rows() const { return end - begin; }
};

// The counters of one range, and one thread's way through all tokens.
class RangeCounter {
 public:
  RangeCounter(const LayerSpec& layer, Range range, Counter* counters)
      : range_(range), counters_(counters) {
    std::memset(counters_, 0, range.rows() * sizeof(Counter));
    uint64_t begin = 0;
    for (size_t c = 0; c < layer.columns.size(); ++c) {
      const uint64_t end = begin + layer.columns[c].rows;
      if (begin < range.end && end > range.begin) {
        if (first_column_ == last_column_) first_column_ = c;
        last_column_ = c + 1;
      }
      begin = end;
    }
  }

  // Row ids of `positions`, `columns` each, of which only those of the range are counted.
  void Add(absl::Span<const RowId> ids, size_t columns) {
    const size_t positions = ids.size() / columns;
    for (size_t p = 0; p < positions; ++p) {
      const RowId* later = &ids[std::min(p + kPrefetchPositions, positions - 1) * columns];
      const RowId* now = &ids[p * columns];
      for (size_t c = first_column_; c < last_column_; ++c) {
        if (const uint64_t at = Raw(later[c]) - range_.begin; at < range_.rows()) {
          __builtin_prefetch(counters_ + at, 1);
        }
        const uint64_t at = Raw(now[c]) - range_.begin;
        if (at < range_.rows() && ++counters_[at] == 0) ++carries_[at];
      }
    }
  }

  // Calls `each` with id and count of every row that was asked for, ascending; ends at an error.
  absl::Status ForEach(absl::FunctionRef<absl::Status(uint64_t id, uint64_t count)> each) const {
    std::vector<std::pair<uint64_t, uint64_t>> carries(carries_.begin(), carries_.end());
    std::sort(carries.begin(), carries.end());
    auto carry = carries.begin();
    for (uint64_t at = 0; at < range_.rows(); ++at) {
      uint64_t count = counters_[at];
      if (carry != carries.end() && carry->first == at) {
        count += (carry++)->second * kCounterValues;
      }
      if (count > 0) ENGRAM_RETURN_IF_ERROR(each(range_.begin + at, count));
    }
    return absl::OkStatus();
  }

 private:
  const Range range_;
  Counter* const counters_;
  size_t first_column_ = 0;
  size_t last_column_ = 0;
  std::unordered_map<uint64_t, uint64_t> carries_;  // how often a counter began anew at 0
};

// Keeps the most frequent of the rows that it is shown, equal ones by the lower id.
class Candidates {
 public:
  explicit Candidates(uint64_t wanted) : wanted_(wanted) { best_.reserve(Limit(wanted)); }

  void Offer(uint64_t id, uint64_t count) {
    const uint64_t packed = count << 32 | (0xFFFFFFFFu - id);
    if (packed < least_ || wanted_ == 0) return;
    best_.push_back(packed);
    if (best_.size() >= Limit(wanted_)) Trim();
  }
  std::vector<HotRow> Take() {
    Trim();
    std::sort(best_.begin(), best_.end(), std::greater<>());
    std::vector<HotRow> rows;
    rows.reserve(best_.size());
    for (const uint64_t packed : best_) {
      rows.push_back({RowId{0xFFFFFFFFu - static_cast<uint32_t>(packed)},
                      static_cast<uint32_t>(packed >> 32)});
    }
    return rows;
  }
  static uint64_t Limit(uint64_t wanted) { return wanted + wanted / 4 + kSpareCandidates; }

 private:
  void Trim() {
    if (best_.size() <= wanted_) return;
    const auto end = best_.begin() + static_cast<ptrdiff_t>(wanted_);
    std::nth_element(best_.begin(), end, best_.end(), std::greater<>());
    least_ = *end;
    best_.erase(end, best_.end());
  }

  const uint64_t wanted_;
  uint64_t least_ = 0;
  std::vector<uint64_t> best_;
};

// How many rows there are of each count, of one order.
class Histogram {
 public:
  void Add(uint64_t count) {
    if (count < kSmall) {
      ++small_[count];
    } else {
      ++large_[count];
    }
  }
  std::vector<CountClass> Classes() const {
    std::vector<CountClass> classes;
    for (const auto& [count, rows] : large_) classes.push_back({count, rows});
    for (uint64_t count = kSmall - 1; count > 0; --count) {
      if (small_[count] > 0) classes.push_back({count, small_[count]});
    }
    return classes;
  }

 private:
  static constexpr uint64_t kSmall = 4096;
  std::vector<uint64_t> small_ = std::vector<uint64_t>(kSmall);
  std::map<uint64_t, uint64_t, std::greater<>> large_;
};

uint64_t HashedRows(const LayerSpec& layer) {
  uint64_t rows = 0;
  for (const ColumnSpec& column : layer.columns) rows += column.rows;
  return rows;
}

// What has been counted of a layer. Rows are added in ascending order.
class LayerTally {
 public:
  LayerTally(const LayerSpec& layer, uint64_t head_rows)
      : layer_(layer), candidates_(std::min(head_rows, HashedRows(layer))) {
    for (const ColumnSpec& column : layer.columns) histograms_[column.order];
  }

  absl::Status Add(uint64_t id, uint64_t count) {
    if (count > kMaxRowCount) {
      return absl::OutOfRangeError(absl::StrCat("row ", id, " of layer ", Raw(layer_.id),
                                                " is asked for ", count, " times, over ",
                                                kMaxRowCount, "; profile fewer tokens"));
    }
    while (histogram_ == nullptr || id >= column_end_) {
      const ColumnSpec& column = layer_.columns[next_column_++];
      column_end_ += column.rows;
      histogram_ = &histograms_[column.order];
    }
    histogram_->Add(count);
    candidates_.Offer(id, count);
    return absl::OkStatus();
  }

  LayerProfile Profile() && {
    LayerProfile profile;
    profile.id = layer_.id;
    profile.rows = layer_.rows;
    for (const ColumnSpec& column : layer_.columns) {
      profile.columns.push_back({column.order, column.rows});
    }
    for (const auto& [order, histogram] : histograms_) {
      profile.orders.push_back({order, histogram.Classes()});
    }
    profile.head = candidates_.Take();
    return profile;
  }

 private:
  const LayerSpec& layer_;
  Candidates candidates_;
  std::map<int32_t, Histogram> histograms_;  // by order
  size_t next_column_ = 0;
  uint64_t column_end_ = 0;
  Histogram* histogram_ = nullptr;  // of the column before next_column_
};

// What a count of the table keeps beside counters: all heads and one layer's candidates. (The check
// of a head for rows that stand twice takes less than these, and comes later.)
uint64_t KeptBytes(const TableSpec& spec, uint64_t head_rows) {
  uint64_t heads = 0, candidates = 0;
  for (const LayerSpec& layer : spec.layers) {
    const uint64_t head = std::min(head_rows, HashedRows(layer));
    heads += head * sizeof(HotRow);
    candidates = std::max(candidates, sizeof(uint64_t) * Candidates::Limit(head));
  }
  return heads + candidates;
}

// Counts one layer after the other.
class TableCounter {
 public:
  TableCounter(const TableSpec& spec, const TokenFiles& files, TokenCheck check,
               const CountOptions& options)
      : spec_(spec), files_(files), check_(check), options_(options) {}

  absl::StatusOr<CountedRows> Count();

 private:
  absl::StatusOr<LayerProfile> CountLayer(const LayerSpec& layer);
  // One thread's part of a range. The first counts positions and reports progress.
  absl::Status CountPart(const NgramHasher& hasher, RangeCounter& counter, bool first);
  absl::Status CountRange(const NgramHasher& hasher, std::vector<RangeCounter>& parts);
  uint64_t RangesOf(const LayerSpec& layer) const {
    return (HashedRows(layer) + rows_at_once_ - 1) / rows_at_once_;
  }

  const TableSpec& spec_;
  const TokenFiles& files_;
  const TokenCheck check_;
  const CountOptions& options_;
  uint64_t rows_at_once_ = 0;
  DirectMemory counters_;
  CountProgress progress_;
  uint64_t positions_ = 0;  // with rows, of the range under way
  std::atomic<bool> failed_{false};
};

absl::StatusOr<CountedRows> TableCounter::Count() {
  CountedRows counted;
  uint64_t most = 0;
  for (const LayerSpec& layer : spec_.layers) most = std::max(most, HashedRows(layer));
  const uint64_t kept = KeptBytes(spec_, options_.head_rows);
  // Below a 64th of the rows at once the files would be read over and over.
  const uint64_t least = kept + (most + 63) / 64 * sizeof(Counter);
  if (options_.memory_bytes < least) {
    return absl::InvalidArgumentError(
        absl::StrCat(FormatSize(options_.memory_bytes), " of memory are too little: a head of ",
                     options_.head_rows, " rows a layer and counters need ", least,
                     "B; give more, or a smaller ", "head"));
  }
  rows_at_once_ = std::min(most, (options_.memory_bytes - kept) / sizeof(Counter));
  counters_ = AllocateDirect(rows_at_once_ * sizeof(Counter));
  for (const LayerSpec& layer : spec_.layers) {
    counted.ranges = std::max(counted.ranges, RangesOf(layer));
    progress_.ids_total += RangesOf(layer) * files_.ids();
  }
  for (const LayerSpec& layer : spec_.layers) {
    if (layer.columns.empty()) continue;
    ENGRAM_ASSIGN_OR_RETURN(LayerProfile profile, CountLayer(layer));
    counted.profile.layers.push_back(std::move(profile));
  }
  counted.profile.family = spec_.family;
  counted.profile.fingerprint = AddressingFingerprint(spec_);
  if (!check_.map.empty()) counted.profile.token_map_digest = spec_.token_map_digest;
  counted.profile.tokens = positions_;
  counted.profile.sequences = files_.count();
  return counted;
}

absl::Status TableCounter::CountPart(const NgramHasher& hasher, RangeCounter& counter, bool first) {
  const size_t columns = hasher.columns();
  std::vector<RowId> rows(kBlockPositions * columns);
  const auto add = [&](absl::Span<const int32_t> ids, size_t context) -> absl::Status {
    if (options_.cancelled != nullptr && options_.cancelled->load(std::memory_order_relaxed)) {
      return absl::CancelledError("interrupted; nothing was written");
    }
    if (failed_.load(std::memory_order_relaxed)) return absl::AbortedError("another thread failed");
    for (size_t begin = context; begin < ids.size(); begin += kBlockPositions) {
      const size_t positions = std::min(kBlockPositions, ids.size() - begin);
      const size_t lookback = std::min(begin, hasher.lookback());
      const auto out = absl::MakeSpan(rows).first(positions * columns);
      // The files' ids were checked as they were read.
      hasher.Hash({ids.subspan(begin - lookback, lookback + positions), lookback}, out);
      counter.Add(out, columns);
    }
    if (!first) return absl::OkStatus();
    const auto live = ids.subspan(context);
    positions_ += live.size() - static_cast<uint64_t>(std::count(live.begin(), live.end(),
                                                                 NgramHasher::kDeadPosition));
    progress_.ids_read += live.size();
    if (options_.on_progress) options_.on_progress(progress_);
    return absl::OkStatus();
  };
  return files_.Read(check_, hasher.lookback(), add);
}

absl::Status TableCounter::CountRange(const NgramHasher& hasher, std::vector<RangeCounter>& parts) {
  std::vector<absl::Status> results(parts.size());
  const auto work = [&](size_t part) {
    results[part] = CountPart(hasher, parts[part], part == 0);
    if (!results[part].ok()) failed_.store(true, std::memory_order_relaxed);
  };
  std::vector<std::thread> threads;
  for (size_t part = 1; part < parts.size(); ++part) threads.emplace_back(work, part);
  work(0);
  for (std::thread& thread : threads) thread.join();
  // The first that failed by itself.
  absl::Status result = absl::OkStatus();
  for (const absl::Status& status : results) {
    if (!status.ok() && (result.ok() || absl::IsAborted(result))) result = status;
  }
  return result;
}

absl::StatusOr<LayerProfile> TableCounter::CountLayer(const LayerSpec& layer) {
  ENGRAM_ASSIGN_OR_RETURN(const NgramHasher hasher, NgramHasher::Create(spec_.addressing, layer));
  LayerTally tally(layer, options_.head_rows);
  const uint64_t all = HashedRows(layer);
  const uint64_t ranges = RangesOf(layer);
  progress_.layer = Raw(layer.id);
  for (uint64_t range = 0; range < ranges; ++range) {
    // Even ranges, each in even parts.
    const uint64_t begin = all * range / ranges;
    const uint64_t rows = all * (range + 1) / ranges - begin;
    std::vector<RangeCounter> parts;
    parts.reserve(options_.threads);
    for (uint64_t t = 0; t < options_.threads; ++t) {
      const Range part = {begin + rows * t / options_.threads,
                          begin + rows * (t + 1) / options_.threads};
      parts.emplace_back(layer, part,
                         reinterpret_cast<Counter*>(counters_.get()) + (part.begin - begin));
    }
    positions_ = 0;
    ENGRAM_RETURN_IF_ERROR(CountRange(hasher, parts));
    for (const RangeCounter& part : parts) {
      ENGRAM_RETURN_IF_ERROR(
          part.ForEach([&](uint64_t id, uint64_t count) { return tally.Add(id, count); }));
    }
  }
  return std::move(tally).Profile();
}

absl::Status CheckMap(const TableSpec& spec, const std::vector<int32_t>& token_map) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, TokenMap::Create(token_map));
  const auto compressed_size = static_cast<int64_t>(map.compressed_size());
  if (map.digest() == spec.token_map_digest &&
      compressed_size == spec.addressing.compressed_vocab_size) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the token map's digest is ", map.digest(), " and it has ", compressed_size,
      " compressed ids; the table's digest is ",
      spec.token_map_digest.empty() ? "none" : spec.token_map_digest, " and it hashes ",
      spec.addressing.compressed_vocab_size, "; take the map that belongs to the table"));
}

}  // namespace

absl::StatusOr<CountedRows> CountRows(const TableSpec& spec, const std::vector<int32_t>& token_map,
                                      const TokenFiles& files, const CountOptions& options) {
  if (spec.addressing.hash == HashKind::kNone) {
    return absl::FailedPreconditionError(absl::StrCat(
        "table \"", spec.name, "\" has no n-gram hash: its rows are addressed by row id only"));
  }
  if (!token_map.empty()) ENGRAM_RETURN_IF_ERROR(CheckMap(spec, token_map));
  const TokenCheck check = {
      .limit = static_cast<uint32_t>(token_map.empty()
                                         ? static_cast<uint64_t>(spec.addressing.hashed_ids())
                                         : token_map.size()),
      .map = token_map};
  auto counted = TableCounter(spec, files, check, options).Count();
  ENGRAM_RETURN_IF_ERROR(counted.status());
  for (const LayerProfile& layer : counted->profile.layers) {
    const uint64_t accesses = Accesses(layer.Classes());
    if (accesses == counted->profile.tokens * layer.columns.size()) continue;
    return absl::InternalError(absl::StrCat("layer ", Raw(layer.id), ": ", accesses,
                                            " look-ups were counted of ", counted->profile.tokens,
                                            " tokens with ", layer.columns.size(), " rows each"));
  }
  return counted;
}

}  // namespace engram
