// The gather as a warp does it: 32 threads that go on together take kRows positions at a time, find
// their rows together (neighbours read a line of tags in one transaction), copy them together, word
// after word of all rows, and check them together. All words of the rows are under way at once, in
// registers; only what is believed is stored, so no fence has to wait for a store. (Rows of a size
// that no known model has go straight to the output, and are written again if they were others.)
//
// A kernel is a shell around this (gather_cuda.cu). Tests run the same code with 32 threads of a
// processor, so it says what a warp needs and not how a GPU does it: `Lanes` has
//   uint32_t lane() const                    this thread's number, 0 … 31
//   uint32_t Ballot(bool) const              everybody's vote, a bit each
//   T Shuffle(T value, uint32_t from) const  what lane `from` gave; T of four or eight bytes
//   void Sync() const                        what one has read or written before, all see after it
//   uint32_t Add(uint32_t* to, uint32_t) const   atomically; what was there
// of which all threads of a warp call Ballot, Shuffle and Sync together.
#ifndef ENGRAM_GPU_CACHE_GATHER_WARP_H_
#define ENGRAM_GPU_CACHE_GATHER_WARP_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "gpu_cache/gather.h"
#include "gpu_cache/gather_rows.h"
#include "storage/dram/row_sizes.h"
#include "storage/dram/seqlock.h"

namespace engram::gpu_cache {

inline constexpr uint32_t kWarp = 32;

template <typename Lanes>
ENGRAM_DEVICE const std::byte* ShuffleAddress(const Lanes& lanes, const std::byte* address,
                                              uint32_t from) {
  return reinterpret_cast<const std::byte*>(
      lanes.Shuffle(reinterpret_cast<uint64_t>(address), from));
}

// What was found in the line of each lane's own row: MatchTags of all its pieces, the first one's
// lowest; and the line's first half-word, which is DRAM's version.
struct LineMatch {
  uint32_t matches = 0;
  uint32_t version = 0;
};

// `line` of each lane: its row's line of kPieces pieces, or null. Rows are those of lanes below
// kRows. `kIsDram`: the version is given too; else what is read afterwards is, behind a Sync, at
// least as new as the line.
template <uint32_t kPieces, uint32_t kRows, bool kIsDram, typename Lanes>
ENGRAM_DEVICE LineMatch MatchLines(const Lanes& lanes, const std::byte* line, uint32_t tag) {
  constexpr uint32_t kAtOnce = kWarp / kPieces;
  constexpr uint32_t kPasses = (kRows + kAtOnce - 1) / kAtOnce;
  const uint32_t lane = lanes.lane();
  WordPair pairs[kPasses];
  ENGRAM_UNROLL
  for (uint32_t pass = 0; pass < kPasses; ++pass) {
    const std::byte* at = ShuffleAddress(lanes, line, pass * kAtOnce + lane / kPieces);
    if (at != nullptr) at += lane % kPieces * kPieceBytes;
    pairs[pass] = kIsDram ? LoadPairOrZeros(at) : LoadPairAcquireOrZeros(at);
  }
  LineMatch match;
  const uint32_t from = lane % kAtOnce * kPieces;
  ENGRAM_UNROLL
  for (uint32_t pass = 0; pass < kPasses; ++pass) {
    const uint32_t wanted = lanes.Shuffle(tag, pass * kAtOnce + lane / kPieces);
    const uint32_t bits = MatchTags(pairs[pass], wanted);
    const bool is_own = lane / kAtOnce == pass;
    ENGRAM_UNROLL
    for (uint32_t piece = 0; piece < kPieces; ++piece) {
      const uint32_t found = lanes.Shuffle(bits, from + piece);
      if (is_own) match.matches |= found << (piece * kTagsOfPiece);
    }
    if constexpr (kIsDram) {
      const uint32_t first = lanes.Shuffle(static_cast<uint32_t>(pairs[pass].first), from);
      if (is_own) match.version = first;
    }
  }
  return match;
}

// Rows whose size is known while this is compiled, on their way through registers. A load takes 32
// words of one row, so that over PCIe each line of memory is asked for once; the last ones take
// what is left of several rows.
template <uint32_t kRows, uint32_t kRowBytes, bool kBf16>
class KnownRows {
  static_assert(kRowBytes % 8 == 0);
  static_assert(!kBf16 || (QuantisedValues(kRowBytes) > 0 && QuantisedValues(kRowBytes) <= 256),
                "the scales of a row are one word");
  static constexpr uint32_t kValues = QuantisedValues(kRowBytes);
  static constexpr uint32_t kWords = (kBf16 ? kValues : kRowBytes) / 8;
  static constexpr uint32_t kWhole = kWords / kWarp;  // loads of one row
  static constexpr uint32_t kLeft = kWords % kWarp;   // words of a row that are left
  static constexpr uint32_t kWholeLoads = kRows * kWhole;
  static constexpr uint32_t kLoads = kWholeLoads + (kRows * kLeft + kWarp - 1) / kWarp;

 public:
  // `row` of each lane below kRows: its row, or null for zeros.
  template <typename Lanes>
  ENGRAM_DEVICE void Load(const Lanes& lanes, const std::byte* row) {
    const uint32_t lane = Opaque(lanes.lane());
    ENGRAM_UNROLL
    for (uint32_t i = 0; i < kLoads; ++i) {
      const Place place = PlaceOf(i, lane);
      const std::byte* const from = ShuffleAddress(lanes, row, place.row);
      const auto* const words = reinterpret_cast<const uint64_t*>(from);
      words_[i] = Load64OrZero(from != nullptr && place.is_own ? words + place.word : nullptr);
    }
    if constexpr (kBf16) {
      const auto* const words = reinterpret_cast<const uint64_t*>(row);
      scales_ = Load64OrZero(row == nullptr ? nullptr : words + kValues / 8);
    }
  }

  ENGRAM_DEVICE void Clear() {
    ENGRAM_UNROLL
    for (uint64_t& word : words_) word = 0;
    scales_ = 0;
  }

  // To `out`, where the first row belongs; those rows whose bits are set.
  template <typename Lanes>
  ENGRAM_DEVICE void Store(const Lanes& lanes, uint32_t rows, std::byte* out) const {
    const uint32_t lane = Opaque(lanes.lane());
    ENGRAM_UNROLL
    for (uint32_t i = 0; i < kLoads; ++i) {
      const Place place = PlaceOf(i, lane);
      const bool wanted = place.is_own && (rows >> place.row & 1) != 0;
      const uint32_t at = place.row * kWords + place.word;
      if constexpr (kBf16) {
        const uint64_t scales = lanes.Shuffle(scales_, place.row);
        const auto scale = static_cast<uint8_t>(scales >> (place.word / 4 * 8));
        if (wanted) reinterpret_cast<Bf16x8*>(out)[at] = DequantiseWord(words_[i], scale);
      } else if (wanted) {
        reinterpret_cast<uint64_t*>(out)[at] = words_[i];
      }
    }
  }

 private:
  // Where a lane's word i lies. The last ones may have none.
  struct Place {
    uint32_t row;
    uint32_t word;
    bool is_own;
  };
  ENGRAM_DEVICE static Place PlaceOf(uint32_t i, uint32_t lane) {
    if constexpr (kWhole > 0) {
      if (i < kWholeLoads) return {i / kWhole, i % kWhole * kWarp + lane, true};
    }
    if constexpr (kLeft > 0) {
      const uint32_t at = (i - kWholeLoads) * kWarp + lane;
      if (at < kRows * kLeft) return {at / kLeft, kWhole * kWarp + at % kLeft, true};
    }
    return {0, 0, false};
  }

  uint64_t words_[kLoads];
  uint64_t scales_ = 0;
};

// Rows of any size go straight to where they belong, also those that turn out to be others: they
// are written again.
template <uint32_t kRows, typename Lanes>
ENGRAM_DEVICE void CopyAnyRows(const Lanes& lanes, const std::byte* row, uint32_t rows,
                               uint32_t row_bytes, Output output, std::byte* out) {
  constexpr uint32_t kAtOnce = 4;
  const uint32_t values = output == Output::kBf16 ? QuantisedValues(row_bytes) : 0;
  const uint32_t words = output == Output::kBf16 ? values / 8 : (row_bytes + 7) / 8;
  const uint64_t out_bytes = OutputRowBytes(row_bytes, output);
  ENGRAM_NO_UNROLL
  for (uint32_t r = 0; r < kRows; ++r) {
    const auto* const from = reinterpret_cast<const uint64_t*>(ShuffleAddress(lanes, row, r));
    if ((rows >> r & 1) == 0) continue;
    std::byte* const to = out + r * out_bytes;
    ENGRAM_NO_UNROLL
    for (uint32_t begin = 0; begin < words; begin += kAtOnce * kWarp) {
      uint64_t word[kAtOnce];
      uint64_t scales[kAtOnce];
      ENGRAM_UNROLL
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        const uint32_t w = begin + i * kWarp + lanes.lane();
        const bool is_there = from != nullptr && w < words;
        word[i] = Load64OrZero(is_there ? from + w : nullptr);
        if (values == 0) continue;
        scales[i] = Load64OrZero(is_there ? from + ScaleAt(values, w) / 8 : nullptr);
      }
      ENGRAM_UNROLL
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        const uint32_t w = begin + i * kWarp + lanes.lane();
        if (w >= words) continue;
        if (values == 0) {
          StoreWord(to, row_bytes, w, word[i]);
        } else {
          const auto scale = static_cast<uint8_t>(scales[i] >> (ScaleAt(values, w) % 8 * 8));
          reinterpret_cast<Bf16x8*>(to)[w] = DequantiseWord(word[i], scale);
        }
      }
    }
  }
}

// Rows that a lane has found, each its own.
struct Counts {
  uint32_t hbm = 0;
  uint32_t dram = 0;
};

// kRowBytes 0: any size. Tiles of kRows positions, one at a time.
template <typename Lanes, uint32_t kRows, uint32_t kRowBytes, bool kBf16>
class WarpGather {
  static_assert(kRows <= kWarp / 2, "a tile's sectors are read in one go");
  static constexpr bool kKnown = kRowBytes != 0;

 public:
  // `source` is a copy of args.source, near at hand.
  ENGRAM_DEVICE WarpGather(const GatherArgs& args, const Source& source, const Lanes& lanes)
      : args_(args), source_(source), lanes_(lanes), first_sample_(args.scratch->first_sample) {}

  static constexpr uint32_t Tiles(uint32_t count) { return (count + kRows - 1) / kRows; }

  // The id that this lane will look for in that tile, so that it can be read in good time.
  ENGRAM_DEVICE uint32_t IdOf(uint32_t tile) const {
    const bool is_own = IsOwn(tile);
    const uint32_t id = Load32OrZero(is_own ? args_.ids + tile * kRows + lanes_.lane() : nullptr);
    return is_own ? id : kDeadPosition;
  }

  ENGRAM_DEVICE void Gather(uint32_t tile, uint32_t id, Counts& counts) {
    const bool valid = IsOwn(tile);
    std::byte* const out =
        args_.out + uint64_t{tile} * kRows * OutputRowBytes(RowBytes(), OutputKind());
    bool pending = id != kDeadPosition;
    bool served = false;
    uint32_t todo = lanes_.Ballot(valid);
    ENGRAM_NO_UNROLL
    for (int attempt = 0; todo != 0 && attempt < kAttempts; ++attempt) {
      // Of an arena where little changes what was read for the last tile still holds.
      if (attempt > 0 || region_.sectors == 0) region_ = ReadRegion(source_);
      const FoundRow found = Find(id, pending);
      const bool in_dram = found.row != nullptr && !found.in_hbm;
      const bool any_in_dram = lanes_.Ballot(in_dram) != 0;
      if (any_in_dram) FenceReads(true);
      lanes_.Sync();
      SeenAfter seen;
      seen.tag = any_in_dram ? Load32OrZero(found.tag) : 0;
      if constexpr (kKnown) {
        rows_.Load(lanes_, found.row);
      } else {
        CopyAnyRows<kRows>(lanes_, found.row, todo, RowBytes(), OutputKind(), out);
      }
      FenceReads(any_in_dram);
      lanes_.Sync();
      if (found.in_hbm) seen.epoch = Load64(&RegionIn(source_)->epoch);
      if (any_in_dram) {
        seen.generation = lanes_.Shuffle(Load64(source_.dram.generation), 0);
        if (seen.generation != source_.dram.attached_generation) dram_ = Dram::kGone;
      }
      const bool believed = found.row != nullptr && IsBelieved(source_, region_, found, id, seen);
      pending = found.row != nullptr && !believed;
      served = served || believed;
      counts.hbm += believed && found.in_hbm ? 1 : 0;
      counts.dram += believed && in_dram ? 1 : 0;
      const uint32_t left = lanes_.Ballot(pending);
      if constexpr (kKnown) rows_.Store(lanes_, todo & ~left, out);
      todo = left;
    }
    if (todo != 0) {  // found, and never believed
      if constexpr (kKnown) {
        rows_.Clear();
        rows_.Store(lanes_, todo, out);
      } else {
        CopyAnyRows<kRows>(lanes_, nullptr, todo, RowBytes(), OutputKind(), out);
      }
    }
    if (valid) ReportRow(tile * kRows + lanes_.lane(), id, served);
    ReportMisses(tile, id, valid && id != kDeadPosition && !served);
  }

 private:
  enum class Dram : uint32_t { kUnknown, kHolds, kGone };

  ENGRAM_DEVICE bool IsOwn(uint32_t tile) const {
    return lanes_.lane() < kRows && tile * kRows + lanes_.lane() < args_.count;
  }
  ENGRAM_DEVICE uint32_t RowBytes() const { return kKnown ? kRowBytes : source_.row_bytes; }
  ENGRAM_DEVICE static constexpr Output OutputKind() {
    return kBf16 ? Output::kBf16 : Output::kRaw;
  }

  ENGRAM_DEVICE FoundRow Find(uint32_t id, bool pending) {
    const uint32_t tag = TagOf(id);
    const std::byte* const sector = pending ? SectorAt(region_, id) : nullptr;
    const LineMatch in_hbm =
        MatchLines<kSectorBytes / kPieceBytes, kRows, false>(lanes_, sector, tag);
    FoundRow found;
    if (sector != nullptr)
      found = FoundInArena(source_, region_, id, dram::FirstWay(in_hbm.matches));
    const bool missing = pending && found.row == nullptr;
    if (lanes_.Ballot(missing) == 0 || !DramIsOurs()) return found;
    if (source_.dram.resident != 0) {
      if (missing) found.row = DramResidentRow(source_.dram, id);
      return found;
    }
    const std::byte* const set = missing ? DramSetOf(source_.dram, id) : nullptr;
    const LineMatch in_set =
        MatchLines<sizeof(dram::TagLine) / kPieceBytes, kRows, true>(lanes_, set, tag);
    if (missing) {
      found = FoundInDramSet(source_.dram, set, in_set.version, dram::WayInLine(in_set.matches));
    }
    return found;
  }

  // One lane's word for all: they have to go on together.
  ENGRAM_DEVICE bool DramIsOurs() {
    if (dram_ == Dram::kUnknown) {
      const uint32_t holds = lanes_.Shuffle(DramHolds(source_.dram) ? 1u : 0u, 0);
      dram_ = holds != 0 ? Dram::kHolds : Dram::kGone;
    }
    return dram_ == Dram::kHolds;
  }

  ENGRAM_DEVICE void ReportRow(uint32_t position, uint32_t id, bool served) {
    if (!IsSampled(args_, first_sample_, position)) return;
    args_.samples[position / args_.sample_every] = served ? id : kDeadPosition;
  }

  ENGRAM_DEVICE void ReportMisses(uint32_t tile, uint32_t id, bool is_missing) {
    const uint32_t missing = lanes_.Ballot(is_missing);
    if (missing == 0) return;
    const uint32_t lane = lanes_.lane();
    uint32_t at = 0;
    if (lane == 0) at = lanes_.Add(&args_.scratch->missing, std::popcount(missing));
    at = lanes_.Shuffle(at, 0);
    if (!is_missing) return;
    at += std::popcount(missing & ((1u << lane) - 1));
    args_.missing[at] = {tile * kRows + lane, id};
  }

  const GatherArgs& args_;
  const Source& source_;
  const Lanes& lanes_;
  const uint32_t first_sample_;
  RegionNow region_;
  Dram dram_ = Dram::kUnknown;
  // Takes nothing where it is not used: for rows of any size.
  KnownRows<kRows, kKnown ? kRowBytes : 264, kBf16> rows_;
};

// What a block says when it is done, so that one addition is enough: that it is one, and what its
// rows were. Blocks are fewer than 2^14, rows of a launch fewer than 2^25.
inline constexpr uint32_t kMaxBlocks = (1u << 14) - 1;
inline constexpr int kArrivedRowsBits = 25;
static_assert(kMaxGatherRows < 1u << kArrivedRowsBits);
constexpr uint64_t ArrivalOf(uint32_t hbm_rows, uint32_t dram_rows) {
  return (uint64_t{1} << kArrivedRowsBits | hbm_rows) << kArrivedRowsBits | dram_rows;
}
constexpr uint32_t BlocksOf(uint64_t arrived) {
  return static_cast<uint32_t>(arrived >> (2 * kArrivedRowsBits));
}
constexpr uint32_t HbmRowsOf(uint64_t arrived) {
  return static_cast<uint32_t>(arrived >> kArrivedRowsBits) & ((1u << kArrivedRowsBits) - 1);
}
constexpr uint32_t DramRowsOf(uint64_t arrived) {
  return static_cast<uint32_t>(arrived) & ((1u << kArrivedRowsBits) - 1);
}

// Calls `launch.template operator()<kRows, kRowBytes, kBf16>()` with what suits this batch on a
// device of so many warps at once: small batches get a warp a row, so that all rows are under way
// at once; of large ones each warp has as many as its registers hold; those between get smaller
// tiles, so that all warps end together.
template <typename Launch>
auto ChooseWarps(const GatherArgs& args, uint32_t row_bytes, uint32_t warps, Launch launch) {
  const bool one = args.count <= warps;
  const bool few = args.count <= 64 * warps;
  return dram::WithRowBytes(row_bytes, [&]<uint32_t kRowBytes>() {
    // Words go out whole, and a row's scales are one word.
    constexpr bool kScaled = QuantisedValues(kRowBytes) > 0 && QuantisedValues(kRowBytes) <= 256;
    const auto by_count = [&]<uint32_t kKnown, uint32_t kMost, bool kBf16>() {
      if (one) return launch.template operator()<1, kKnown, kBf16>();
      if (few) return launch.template operator()<8, kKnown, kBf16>();
      return launch.template operator()<kMost, kKnown, kBf16>();
    };
    if (args.output == Output::kBf16) {
      if constexpr (kScaled) return by_count.template operator()<kRowBytes, 16, true>();
      return by_count.template operator()<0, 8, true>();
    }
    if constexpr (kRowBytes != 0) {
      if (reinterpret_cast<uintptr_t>(args.out) % 8 == 0) {
        // So many rows that their words fit into a thread's registers.
        constexpr uint32_t kMost = kRowBytes > 320 ? 8 : 16;
        return by_count.template operator()<kRowBytes, kMost, false>();
      }
    }
    return by_count.template operator()<0, 8, false>();
  });
}

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_GATHER_WARP_H_
