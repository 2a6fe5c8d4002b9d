// GpuReader: rows of one layer, gathered by a worker's own GPU on the worker's own stream.
//
//   auto reader = engram::GpuReader::Open({.table = "deepseek", .layer = 1, .max_rows = 768});
//   if (!reader.ok()) return reader.status();
//   // A decode step. `ids` and `out` are device memory; nothing here waits for the host.
//   (*reader)->Refresh(stream);                            // cheap: see below
//   (*reader)->Enqueue(ids, count, out, stream);           // one kernel; or part of a CUDA graph
//   …                                                      // layers that do not need the rows yet
//   auto done = (*reader)->Complete(out, stream);          // before the layer that does
//
// The kernel copies what the daemon's HBM tier holds out of GPU memory, what its DRAM tier holds
// over PCIe, and lists the rest, whose places are zeros until Complete has fetched them from the
// daemon. Prefetch (client()) makes them rare. A row that is served is the row: a tier that changes
// under a kernel is noticed by the kernel.
//
// What is missing never fails a reader: without an HBM tier, with another GPU than the daemon's, or
// after the daemon has gone, more rows are left to Complete, and note() says why.
//
// A reader is for one stream at a time, and for one thread at a time. It reads the version that it
// was opened for, also after an operator has switched. This header needs only the standard library
// and Abseil; streams are cudaStream_t as void*, addresses the device's.
#ifndef ENGRAM_CLIENT_GPU_READER_H_
#define ENGRAM_CLIENT_GPU_READER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client.h"  // beside this one, also where both are installed

namespace engram {

enum class GpuOutput {
  kRaw,   // row_bytes a row, as the table has them
  kBf16,  // rows of 8-bit floats with a scale for each 32, as bf16: 256 values of 264 bytes
};

struct GpuReaderOptions {
  ClientOptions client = {};  // its target is the daemon's Unix socket
  std::string table = {};
  uint64_t version = 0;            // 0: the one that is active when the reader is opened
  TableExpectation expected = {};  // the handshake: as Client::OpenTable
  int32_t layer = 0;               // the model config's own number
  uint32_t max_rows = 0;           // of one launch
  GpuOutput output = GpuOutput::kRaw;
  int gpu = 0;  // as CUDA counts those that this process may use
  // Gathers on the processor instead, at Enqueue; `ids` and `out` are host memory then. For trying
  // things out without a GPU.
  bool host_memory = false;
};

class GpuReader {
 public:
  // Errors of Client::Connect and Client::OpenTable; NotFound: the table has no such layer;
  // InvalidArgument: rows of this layer cannot be given as bf16, or max_rows is out of bounds;
  // FailedPrecondition: there is no such GPU, or this build has no CUDA.
  static absl::StatusOr<std::unique_ptr<GpuReader>> Open(const GpuReaderOptions& options);
  // Waits for nothing: what the reader has launched must be done.
  virtual ~GpuReader() = default;

  virtual uint32_t row_bytes() const = 0;         // of the table
  virtual uint64_t output_row_bytes() const = 0;  // of a row at `out`
  virtual const TableDescription& table() const = 0;
  virtual Client& client() = 0;
  // Where rows come from, and what is unavailable and why.
  virtual std::string note() const = 0;

  // Looks whether what is mapped is still the daemon's. If so, which is nearly always, it costs
  // some nanoseconds; else it waits for `stream`, and maps again, a second at most. Not while the
  // stream captures. To be called now and then, best before each step: without it rows stay right,
  // but more and more are left to Complete. Unavailable: the GPU does not work any more.
  virtual absl::Status Refresh(void* stream) = 0;

  // Puts a gather of `count` row ids on the stream: 4 bytes each, kDeadPosition gives zeros. `ids`
  // and `out` are read and written when it runs; `out` gets `count` rows, packed (of kBf16 it has
  // to be aligned to 16 bytes). It may be captured: each replay reads the ids again.
  // InvalidArgument: more than max_rows. Unavailable: the GPU does not work any more.
  virtual absl::Status Enqueue(const uint32_t* ids, uint32_t count, void* out, void* stream) = 0;

  struct Result {
    uint64_t hbm_rows = 0;  // rows that the kernel found in each tier, since the last Complete
    uint64_t dram_rows = 0;
    uint64_t fetched_rows = 0;  // that were missing and are there now
    uint64_t nvme_rows = 0;     // of those, the ones that came from the drive
  };
  // Waits for what is on the stream; then has the rows that the last gather did not find looked up
  // by the daemon, and puts them to their places in `out`, on the stream. Returns when `out` is
  // whole, as far as later work on the stream sees it; called once more it finds nothing to do.
  // Errors of Client::Lookup: those places are zeros, and a further call tries again.
  virtual absl::StatusOr<Result> Complete(
      void* out, void* stream,
      std::chrono::milliseconds deadline = std::chrono::milliseconds(0)) = 0;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_GPU_READER_H_
