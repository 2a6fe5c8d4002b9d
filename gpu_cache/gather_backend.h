// A worker's role towards a device: it imports the daemon's arena, registers the daemon's shared
// memory, and makes gatherers that run on its own streams. The daemon's role is arena_backend.h;
// backend.h opens devices that play both.
//
// No CUDA type appears here: a stream is a cudaStream_t as void*, an address the device's own.
// Every call that fails says why; a device that was lost or reset gives kUnavailable from then on,
// and the worker goes on without the tier.
//
// Threads: a backend may be used by any; of what it makes each object by one at a time. No call
// waits for another process.
#ifndef ENGRAM_GPU_CACHE_GATHER_BACKEND_H_
#define ENGRAM_GPU_CACHE_GATHER_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "gpu_cache/arena_export.h"
#include "gpu_cache/gather.h"
#include "gpu_cache/status.h"

namespace engram::gpu_cache {

// Memory of another process, mapped for this device for as long as the object lives.
class MappedMemory {
 public:
  virtual ~MappedMemory() = default;
  virtual const std::byte* data() const = 0;  // the device's address
};

// A worker's gathers of one layer. Enqueue may be called from one thread at a time.
class Gatherer {
 public:
  virtual ~Gatherer() = default;

  // From the next launch on `stream` on, rows are read through this. What it points to, and what
  // the last one pointed to, has to stay until earlier launches are done. Not while a stream
  // captures. Ordered with the launches of `stream`; others have to be waited for first.
  // `segments` are the DRAM tier's addresses for the device, `bucket_segments` as for DramView:
  // both are copied; the pointers to them in `source` are set here.
  virtual Status SetSource(const Source& source, std::span<const std::byte* const> segments,
                           std::span<const uint16_t> bucket_segments, void* stream) = 0;
  // One gather of `count` ids, at most max_rows, at device addresses `ids` and `out`. Only puts it
  // on the stream; may be captured. kInvalid: more than that, or addresses that are not aligned.
  virtual Status Enqueue(const uint32_t* ids, uint32_t count, std::byte* out, void* stream) = 0;
  // Waits until all that is on the stream is done. Not while it captures.
  virtual Status Wait(void* stream) = 0;
  // What the last launch that is done reports: to be read when its stream has been waited for.
  virtual const Report& report() const = 0;
  virtual std::span<const Miss> missing() const = 0;
  virtual std::span<const uint32_t> samples() const = 0;  // row ids, some kDeadPosition
  // Puts rows, as stored and packed, to these positions of `out`, in the gatherer's output format;
  // on the stream. Returns when `rows` may be used for something else.
  virtual Status Complete(std::span<const uint32_t> positions, std::span<const std::byte> rows,
                          std::byte* out, void* stream) = 0;
};

// Memory of the device, for callers that have none of their own.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual std::byte* data() const = 0;
  // Both are done when they return, and within the buffer.
  virtual Status Upload(uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual Status Download(uint64_t offset, std::span<std::byte> bytes) = 0;
};

// A stream of the device; waits for nothing when it goes.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void* handle() const = 0;
};

struct GathererOptions {
  uint32_t row_bytes = 0;
  uint32_t max_rows = 0;  // of one launch; 1 to kMaxGatherRows
  Output output = Output::kRaw;
  uint32_t sample_every = 0;  // GatherArgs::samples; 0: none
};

// A device that can gather rows.
class GatherBackend {
 public:
  virtual ~GatherBackend() = default;

  virtual std::string name() const = 0;  // "NVIDIA H200", "host memory"
  // Takes no ownership of `fd`. kInvalid: it is not what the description says, or another device's.
  virtual Status Import(const ArenaExport& arena, int fd, std::unique_ptr<MappedMemory>& out) = 0;
  // Whether the device can read host memory that this process may not write.
  virtual bool CanRegisterReadOnly() const = 0;
  // Lets the device read this process' memory, which stays as long as the object. `read_only`: it
  // is mapped without write permission.
  virtual Status Register(std::byte* memory, uint64_t bytes, bool read_only,
                          std::unique_ptr<MappedMemory>& out) = 0;
  virtual Status MakeGatherer(const GathererOptions& options, std::unique_ptr<Gatherer>& out) = 0;
  virtual Status MakeBuffer(uint64_t bytes, std::unique_ptr<DeviceBuffer>& out) = 0;
  virtual Status MakeStream(std::unique_ptr<Stream>& out) = 0;
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_GPU_CACHE_GATHER_BACKEND_H_
