// The gather: a batch of row ids in, their rows out, each from where it lies. A row that the arena
// holds is copied from there, else one that the DRAM tier holds from the daemon's shared memory,
// else it goes to a list of misses, and its place is filled with zeros.
//
// One launch is one kernel and nothing else: it allocates nothing, waits for nothing, and reads and
// writes through addresses that never change, so a CUDA graph may capture and replay it. What the
// layer's rows are read through (Source) lies behind one of these addresses and can be exchanged
// between launches.
//
// The same gather runs on a processor (GatherOnHost): where there is no GPU, and in the tests,
// which hold it against a plain model; the kernel is a thin shell around the same functions
// (gather_rows.h).
#ifndef ENGRAM_GPU_CACHE_GATHER_H_
#define ENGRAM_GPU_CACHE_GATHER_H_

#include <cstddef>
#include <cstdint>

#include "gpu_cache/arena_layout.h"
#include "gpu_cache/dram_view.h"

namespace engram::gpu_cache {

inline constexpr uint32_t kMaxGatherRows = 1u << 24;  // of one launch

enum class Output : uint32_t {
  kRaw = 0,   // row_bytes a row, as stored
  kBf16 = 1,  // dequantise.h: QuantisedValues(row_bytes) bf16 a row
};

// Where a layer's rows are to be found. A plain value; everything it points to is read by the
// device that gathers.
struct Source {
  const std::byte* arena = nullptr;  // null: no HBM tier
  uint64_t arena_bytes = 0;
  uint32_t region = 0;    // the layer's, in the arena's header
  uint32_t stack_id = 0;  // of the layer: a region that says another is not read
  uint32_t row_bytes = 0;
  DramView dram;
};

struct Miss {
  uint32_t position = 0;
  uint32_t row_id = 0;
};

// What a launch reports; lies where the host can read it once the launch is done.
struct Report {
  uint32_t missing = 0;  // entries of GatherArgs::missing
  uint32_t samples = 0;  // entries of GatherArgs::samples, some of them kDeadPosition
  // Since the gatherer was made.
  uint64_t hbm_rows = 0;
  uint64_t dram_rows = 0;
  uint64_t zero_rows = 0;
  uint64_t launches = 0;
};

// What launches count, on the device; zeros before the first. FinishLaunch resets what belongs to
// one launch.
struct Scratch {
  unsigned long long arrived = 0;  // a kernel's blocks that are done, and what they found
  uint32_t missing = 0;            // of this launch
  uint32_t first_sample = 0;       // of this launch; each begins one position earlier than the last
  // Since the gatherer was made.
  uint64_t hbm_rows = 0;
  uint64_t dram_rows = 0;
  uint64_t zero_rows = 0;
  uint64_t launches = 0;
};

// All addresses are the device's.
struct GatherArgs {
  const Source* source = nullptr;
  const uint32_t* ids = nullptr;  // kDeadPosition gives zeros
  uint32_t count = 0;
  Output output = Output::kRaw;
  std::byte* out = nullptr;  // count rows, packed; 16-byte aligned for kBf16
  Scratch* scratch = nullptr;
  Report* report = nullptr;
  Miss* missing = nullptr;  // room for count; in no order
  // Of the ids that were found, one position in `sample_every`, for the daemon's statistics; room
  // for count / sample_every + 1. Null: none.
  uint32_t* samples = nullptr;
  uint32_t sample_every = 0;
};

// Bytes of one row in the output.
constexpr uint64_t OutputRowBytes(uint32_t row_bytes, Output output) {
  return output == Output::kRaw ? row_bytes : uint64_t{row_bytes / 33} * 64;
}

// Gathers on the calling thread. One thread at a time may use the same scratch, report and lists.
void GatherOnHost(const GatherArgs& args);

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_GATHER_H_
