// The page by which the daemon tells clients that what they have mapped is no longer as it was:
// a segment came or went, another version of a table became active, or the daemon is another one.
//
// A client reads `generation` before a batch and once more after it. The same number, and not 0:
// all that it copied in between was the tier's; another one: it discards the copies and attaches
// again. The daemon counts on before it gives memory up, so a copy of memory given up is always
// noticed. Only the standard library.
#ifndef ENGRAM_STORAGE_DRAM_CONTROL_H_
#define ENGRAM_STORAGE_DRAM_CONTROL_H_

#include <atomic>
#include <cstdint>

namespace engram::dram {

inline constexpr uint64_t kControlMagic = 0x4C525443'4D415247ull;  // "GRAMCTRL"
inline constexpr uint64_t kControlBytes = 4096;
inline constexpr uint64_t kRetired = 0;  // as generation: nothing mapped under it may be used

// Names the page among segments, where they are handed over writable (handover.h).
inline constexpr uint64_t kControlPageId = 0;

// At the beginning of the page. The first two fields keep their places in every layout: a daemon of
// another version must be able to retire what this one left.
struct ControlPage {
  uint64_t magic;
  uint64_t generation;
};

// Acquire: what the client reads afterwards is at least as new.
inline uint64_t Generation(const ControlPage& page) {
  return std::atomic_ref<uint64_t>(const_cast<uint64_t&>(page.generation))
      .load(std::memory_order_acquire);
}

// Whether no memory was given up since `seen` was read. Acquire fence: a reader that saw given-up
// memory sees a newer generation here (the daemon orders the two the other way round).
inline bool SameGeneration(const ControlPage& page, uint64_t seen) {
  std::atomic_thread_fence(std::memory_order_acquire);
  return std::atomic_ref<uint64_t>(const_cast<uint64_t&>(page.generation))
                 .load(std::memory_order_relaxed) == seen &&
         seen != kRetired;
}

}  // namespace engram::dram

#endif  // ENGRAM_STORAGE_DRAM_CONTROL_H_
