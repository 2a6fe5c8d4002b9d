// Gather: copies a batch of rows out of a layer's DRAM tier, for the daemon and for clients that
// map it.
//
// A software pipeline: each stage prefetches what the next one reads, far enough ahead for the
// memory to arrive. In kCache there are three stages: fetch the set's tags, find the way and fetch
// the row, copy. In a resident layer there are two: fetch, copy.
//
// Thread-safe. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_GATHER_H_
#define ENGRAM_STORAGE_DRAM_GATHER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "storage/dram/layout.h"
#include "storage/dram/reader.h"
#include "storage/dram/row_sizes.h"
#include "storage/dram/seqlock.h"

namespace engram::dram {

// A writer holds a set for about the time of one row copy. After this many attempts it has been
// preempted (or has died), and the row is left to the next tier.
inline constexpr int kReadAttempts = 32;

// Copies one row, and retries while a writer holds its set. Found::row is null if the row is not
// held.
// AnyView is View, or a test's class that changes the set between the steps.
template <typename AnyView>
Found ReadOne(const AnyView& view, uint32_t row_id, std::byte* out) {
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    const Found found = view.Find(row_id);
    if (IsAtRest(found.version)) {
      if (found.row == nullptr) return found;
      view.Copy(found, out);
      if (view.Unchanged(found)) return found;
    }
    __builtin_ia32_pause();
  }
  return {};
}

namespace gather_internal {

// How many rows the stages run ahead of the copy. At 264 bytes, of 8/16, 16/32 and 32/64 the last
// was the fastest by a tenth.
inline constexpr size_t kFindAhead = 32;
inline constexpr size_t kFetchAhead = 64;

// The slow path of a row that was not copied at once: rare, so not inlined.
template <typename Batch>
__attribute__((noinline)) bool ReadAgain(const View& view, Batch& batch, uint32_t position) {
  const uint32_t id = batch.id(position);
  if (id == kDeadPosition) {
    std::memset(batch.row(position), 0, view.shape().row_bytes);
    batch.DeadPosition();
    return true;
  }
  const Found found = ReadOne(view, id, batch.row(position));
  if (found.row != nullptr) batch.HitInSet(position, found);
  return found.row != nullptr;
}

template <uint32_t kRowBytes, typename Batch>
size_t GatherFromSets(const View& view, Batch& batch, size_t count, uint32_t* missing) {
  std::array<Found, kFetchAhead> ring;
  size_t kept = 0;
  // The stages run last to first: the copy reads a slot of the ring that the same step overwrites.
  for (size_t step = 0; step < count + kFetchAhead; ++step) {
    if (step >= kFetchAhead) {
      const uint32_t position = batch.position(step - kFetchAhead);
      const Found found =
          ring[step % kFetchAhead];  // a copy: the row may lie anywhere, the ring too
      // Of kDeadPosition an empty way may have been found.
      const bool at_rest = IsAtRest(found.version) && batch.id(position) != kDeadPosition;
      if (at_rest && found.row == nullptr) {
        missing[kept++] = position;
      } else {
        bool good = at_rest;
        if (good) {
          view.template Copy<kRowBytes>(found, batch.row(position));
          good = view.Unchanged(found);
        }
        if (good) {
          batch.HitInSet(position, found);
        } else if (!ReadAgain(view, batch, position)) {
          missing[kept++] = position;
        }
      }
    }
    if (const size_t at = step - (kFetchAhead - kFindAhead);
        step >= kFetchAhead - kFindAhead && at < count) {
      Found& found = ring[at % kFetchAhead];
      found = view.FindInSet(found.set, TagOf(batch.id(batch.position(at))));
      if (found.row != nullptr) view.template PrefetchRow<kRowBytes>(found.row);
    }
    if (step < count) {
      std::byte* const set = view.SetOf(batch.id(batch.position(step)));
      ring[step % kFetchAhead].set = set;
      __builtin_prefetch(set);
      if constexpr (Batch::kReadsState) __builtin_prefetch(&View::state(set));
    }
  }
  return kept;
}

// `kComplete`: every row of the layer is there.
template <uint32_t kRowBytes, bool kComplete, typename Batch>
size_t GatherResident(const View& view, Batch& batch, size_t count, uint32_t* missing) {
  const uint64_t rows = view.shape().layer_rows;
  size_t kept = 0;
  for (size_t step = 0; step < count + kFindAhead; ++step) {
    if (step < count) {
      if (const uint32_t id = batch.id(batch.position(step)); id < rows) {
        view.template PrefetchRow<kRowBytes>(view.SlotOf(id));
        if constexpr (!kComplete) __builtin_prefetch(&view.BitWord(id));
      }
    }
    if (step < kFindAhead) continue;
    const uint32_t position = batch.position(step - kFindAhead);
    const uint32_t id = batch.id(position);
    if (id < rows && (kComplete || view.IsThere(id))) {
      Found found;
      found.row = view.SlotOf(id);
      view.template Copy<kRowBytes>(found, batch.row(position));
      batch.HitResident(position);
    } else if (id == kDeadPosition) {
      std::memset(batch.row(position), 0, view.shape().row_bytes);
      batch.DeadPosition();
    } else {
      missing[kept++] = position;
    }
  }
  return kept;
}

template <uint32_t kRowBytes, typename Batch>
size_t Gather(const View& view, Batch& batch, size_t count, uint32_t* missing, bool complete) {
  if (!view.resident()) return GatherFromSets<kRowBytes>(view, batch, count, missing);
  if (complete) return GatherResident<kRowBytes, true>(view, batch, count, missing);
  return GatherResident<kRowBytes, false>(view, batch, count, missing);
}

}  // namespace gather_internal

// Copies the rows that are held, writes the positions of the others to `missing` in their order,
// and returns their number. kDeadPosition gives a row of zeros; an id that the layer does not have
// is missing. `complete` is a result of view.Complete(), from now or earlier. `missing` has room
// for `count` entries, and may be the memory that the batch reads its positions from.
//
// Batch is a class with
//   static constexpr bool kReadsState       whether HitInSet reads the set's state word
//   uint32_t position(size_t i)             of the batch's i-th row, i < count
//   uint32_t id(uint32_t position)
//   std::byte* row(uint32_t position)       where its row goes
//   void HitInSet(uint32_t position, const Found&)     a row of kCache has been copied
//   void HitResident(uint32_t position)                a row of kResident
//   void DeadPosition()                                kDeadPosition has been met
template <typename Batch>
size_t Gather(const View& view, Batch& batch, size_t count, uint32_t* missing, bool complete) {
  return WithRowBytes(view.shape().row_bytes, [&]<uint32_t kRowBytes>() {
    return gather_internal::Gather<kRowBytes>(view, batch, count, missing, complete);
  });
}

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_GATHER_H_
