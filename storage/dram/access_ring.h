// The page by which a client tells the daemon what it has read from DRAM by itself: how many rows
// of which layer, and a sample of their ids. The daemon made the memory, and the client cannot
// change its size; its contents are the client's word and are believed as such: they guide eviction
// and statistics, nothing else.
//
// Written by any number of the client's threads, read by one of the daemon's. Nobody waits: a ring
// that the daemon has not read yet takes no more. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_ACCESS_RING_H_
#define ENGRAM_STORAGE_DRAM_ACCESS_RING_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace engram::dram {

inline constexpr size_t kRingCells = 64;
inline constexpr size_t kRingSlots = 3840;

// One row in so many is reported, of a resident layer, where it only tells used prefetches from
// useless ones, fewer. (With 1 in 4 the hit ratio is within 0.9 % of what it is when all are told,
// with 1 in 16 within 3 %: tests/bench/RESULTS.md.)
inline constexpr uint32_t kSampleEvery = 4;
inline constexpr uint32_t kResidentSampleEvery = 64;

// What a client has read of one layer. All words only grow; memory of zeros is an empty ring.
struct alignas(64) RingCell {
  uint64_t stack_id;  // of the layer, from Attach; 0: the cell is free
  uint64_t rows;      // served from DRAM
  uint64_t calls;     // look-ups that needed nothing but DRAM, in the cell of their first layer
  uint64_t hbm_rows;  // served from HBM, by a client that gathers on a GPU
};

struct AccessRing {
  RingCell cells[kRingCells];
  alignas(64) uint64_t written;   // samples so far; sample n lies in slot n mod kRingSlots
  alignas(64) uint64_t consumed;  // of them, read by the daemon, which only ever writes this
  uint64_t slots[kRingSlots];     // cell << 32 | row id, plus one, so that 0 is none
};
inline constexpr uint64_t kRingBytes = 36864;
static_assert(sizeof(AccessRing) <= kRingBytes);

// What a DRAM budget keeps for rings, one for each attached client: a 256th, but enough for 32
// clients unless that were over a quarter, and no more than 1024 clients need.
constexpr uint64_t BytesForRings(uint64_t budget_bytes) {
  uint64_t rings = budget_bytes / 256 / kRingBytes;
  if (rings < 32) rings = 32;
  if (rings > 1024) rings = 1024;
  if (rings > budget_bytes / 4 / kRingBytes) rings = budget_bytes / 4 / kRingBytes;
  return rings * kRingBytes;
}

// The client's side. Relaxed everywhere: each word stands for itself.
inline void CountHbmRows(RingCell& cell, uint64_t rows) {
  std::atomic_ref<uint64_t>(cell.hbm_rows).fetch_add(rows, std::memory_order_relaxed);
}
inline void CountRows(RingCell& cell, uint64_t rows, uint64_t calls) {
  std::atomic_ref<uint64_t>(cell.rows).fetch_add(rows, std::memory_order_relaxed);
  if (calls > 0) std::atomic_ref<uint64_t>(cell.calls).fetch_add(calls, std::memory_order_relaxed);
}
// Whether the daemon has not read what is there yet: more would only replace it.
inline bool IsFull(AccessRing& ring) {
  return std::atomic_ref<uint64_t>(ring.written).load(std::memory_order_relaxed) -
             std::atomic_ref<uint64_t>(ring.consumed).load(std::memory_order_relaxed) >=
         kRingSlots;
}
// Takes places for `count` samples and gives the number of the first.
inline uint64_t TakePlaces(AccessRing& ring, uint64_t count) {
  return std::atomic_ref<uint64_t>(ring.written).fetch_add(count, std::memory_order_relaxed);
}
inline void PutSample(AccessRing& ring, uint64_t number, uint32_t cell, uint32_t row_id) {
  std::atomic_ref<uint64_t>(ring.slots[number % kRingSlots])
      .store((uint64_t{cell} << 32 | row_id) + 1, std::memory_order_relaxed);
}

// The daemon's side. Remembers how far it has read. One thread at a time.
class RingReader {
 public:
  explicit RingReader(AccessRing* ring) : ring_(ring) {}

  // What has grown in a cell since the last time.
  struct Counts {
    uint64_t rows = 0;
    uint64_t calls = 0;
    uint64_t hbm_rows = 0;
  };
  // Calls counted(stack_id, counts) for each layer that was read since the last time, and
  // sampled(stack_id, row_id) for each sample. Both may name what does not exist. Bounded work,
  // whatever the memory says.
  template <typename Counted, typename Sampled>
  void Read(Counted counted, Sampled sampled) {
    std::array<uint64_t, kRingCells> stacks;
    for (size_t i = 0; i < kRingCells; ++i) {
      RingCell& cell = ring_->cells[i];
      stacks[i] = Load(cell.stack_id);
      const Counts now{Load(cell.rows), Load(cell.calls), Load(cell.hbm_rows)};
      Counts& seen = seen_[i];
      const Counts grown{Grown(now.rows, seen.rows), Grown(now.calls, seen.calls),
                         Grown(now.hbm_rows, seen.hbm_rows)};
      if ((grown.rows | grown.calls | grown.hbm_rows) != 0) counted(stacks[i], grown);
      seen = now;
    }
    const uint64_t written = Load(ring_->written);
    // Also what a client has written that counts backwards, or has gone round.
    if (written - read_ > kRingSlots) read_ = written - kRingSlots;
    for (; read_ != written; ++read_) {
      const uint64_t sample = std::atomic_ref<uint64_t>(ring_->slots[read_ % kRingSlots])
                                  .exchange(0, std::memory_order_relaxed);
      if (sample == 0) continue;  // its writer is between the two stores
      const size_t cell = (sample - 1) >> 32;
      if (cell < kRingCells) sampled(stacks[cell], static_cast<uint32_t>(sample - 1));
    }
    std::atomic_ref<uint64_t>(ring_->consumed).store(read_, std::memory_order_relaxed);
  }

 private:
  // More than any machine reads between two looks.
  static constexpr uint64_t kMostAtOnce = uint64_t{1} << 32;

  static uint64_t Load(uint64_t& word) {
    return std::atomic_ref<uint64_t>(word).load(std::memory_order_relaxed);
  }
  static uint64_t Grown(uint64_t now, uint64_t before) {
    return now - before <= kMostAtOnce ? now - before : 0;
  }

  AccessRing* ring_;
  std::array<Counts, kRingCells> seen_{};
  uint64_t read_ = 0;
};

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_ACCESS_RING_H_
