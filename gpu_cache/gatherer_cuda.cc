// A worker's gathers on a GPU: fixed addresses, one kernel a launch.
#include <algorithm>
#include <cstring>
#include <utility>

#include "gpu_cache/cuda_support.h"
#include "gpu_cache/gatherer_checks.h"
#include "gpu_cache/kernels.h"

namespace engram::gpu_cache {
namespace {

// Rows that Complete lays out at a time.
constexpr uint32_t kCompleteRows = 4096;

cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }

// Where the DRAM tier's segments are, on the device; sized for any tier.
struct Tables {
  const std::byte* segments[dram::kMaxSegments];
  uint16_t buckets[dram::kBuckets];
  Source source;
};

class CudaGatherer final : public Gatherer {
 public:
  CudaGatherer(int device, int processors, const GathererOptions& options)
      : device_(device), processors_(processors), options_(options) {}
  ~CudaGatherer() override {
    cudaSetDevice(device_);
    if (copied_ != nullptr) {
      cudaEventSynchronize(copied_);
      cudaEventDestroy(copied_);
    }
  }

  Status Make() {
    ENGRAM_GPU_RETURN_IF_ERROR(AllocateDevice(1, tables_));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocateDevice(1, scratch_));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocatePinned(1, staged_tables_));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocatePinned(1, report_));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocatePinned(options_.max_rows, missing_));
    if (options_.sample_every > 0) {
      ENGRAM_GPU_RETURN_IF_ERROR(
          AllocatePinned(options_.max_rows / options_.sample_every + 1, samples_));
    }
    complete_rows_ = std::min(options_.max_rows, kCompleteRows);
    ENGRAM_GPU_RETURN_IF_ERROR(
        AllocatePinned(complete_rows_ * RowStride(options_.row_bytes), staged_rows_));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocatePinned(complete_rows_, staged_positions_));
    return FromCuda("making an event", cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming));
  }

  Status SetSource(const Source& source, std::span<const std::byte* const> segments,
                   std::span<const uint16_t> bucket_segments, void* stream) override {
    if (segments.size() > dram::kMaxSegments || bucket_segments.size() > dram::kBuckets) {
      return {Code::kInvalid, "a DRAM tier of " + std::to_string(segments.size()) + " segments"};
    }
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    // What was staged last may still be on its way.
    ENGRAM_GPU_RETURN_IF_ERROR(FromCuda("waiting for a copy", cudaEventSynchronize(copied_)));
    Tables& staged = staged_tables_[0];
    std::copy(segments.begin(), segments.end(), staged.segments);
    std::copy(bucket_segments.begin(), bucket_segments.end(), staged.buckets);
    staged.source = source;
    staged.source.dram.segments = segments.empty() ? nullptr : tables_[0].segments;
    staged.source.dram.bucket_segments = bucket_segments.empty() ? nullptr : tables_[0].buckets;
    ENGRAM_GPU_RETURN_IF_ERROR(
        FromCuda("copying to the GPU", cudaMemcpyAsync(tables_.get(), &staged, sizeof(Tables),
                                                       cudaMemcpyHostToDevice, StreamOf(stream))));
    return FromCuda("recording an event", cudaEventRecord(copied_, StreamOf(stream)));
  }

  Status Enqueue(const uint32_t* ids, uint32_t count, std::byte* out, void* stream) override {
    ENGRAM_GPU_RETURN_IF_ERROR(CheckEnqueue(options_, ids, count, out));
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    const GatherArgs args{.source = &tables_[0].source,
                          .ids = ids,
                          .count = count,
                          .output = options_.output,
                          .out = out,
                          .scratch = scratch_.get(),
                          .report = report_.get(),
                          .missing = missing_.get(),
                          .samples = samples_.get(),
                          .sample_every = options_.sample_every};
    return FromCuda("launching a gather",
                    LaunchGather(args, options_.row_bytes, processors_, StreamOf(stream)));
  }

  Status Wait(void* stream) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    return FromCuda("waiting for a gather", cudaStreamSynchronize(StreamOf(stream)));
  }

  const Report& report() const override { return report_[0]; }
  std::span<const Miss> missing() const override { return {missing_.get(), report_[0].missing}; }
  std::span<const uint32_t> samples() const override {
    return {samples_.get(), samples_ == nullptr ? 0 : report_[0].samples};
  }

  Status Complete(std::span<const uint32_t> positions, std::span<const std::byte> rows,
                  std::byte* out, void* stream) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    const uint64_t stride = RowStride(options_.row_bytes);
    for (size_t done = 0; done < positions.size();) {
      const auto count =
          static_cast<uint32_t>(std::min<size_t>(complete_rows_, positions.size() - done));
      for (uint32_t i = 0; i < count; ++i) {
        staged_positions_[i] = positions[done + i];
        std::memcpy(&staged_rows_[i * stride], &rows[(done + i) * options_.row_bytes],
                    options_.row_bytes);
      }
      ENGRAM_GPU_RETURN_IF_ERROR(
          FromCuda("completing a gather",
                   LaunchComplete(staged_positions_.get(), staged_rows_.get(), options_.row_bytes,
                                  options_.output, out, count, StreamOf(stream))));
      // The staged rows are the next ones' too.
      ENGRAM_GPU_RETURN_IF_ERROR(Wait(stream));
      done += count;
    }
    return {};
  }

 private:
  Status Use() const { return FromCuda("using the GPU", cudaSetDevice(device_)); }

  const int device_;
  const int processors_;
  const GathererOptions options_;
  DeviceArray<Tables> tables_;
  DeviceArray<Scratch> scratch_;
  PinnedArray<Tables> staged_tables_;
  PinnedArray<Report> report_;
  PinnedArray<Miss> missing_;
  PinnedArray<uint32_t> samples_;
  PinnedArray<std::byte> staged_rows_;
  PinnedArray<uint32_t> staged_positions_;
  uint32_t complete_rows_ = 0;
  cudaEvent_t copied_ = nullptr;
};

}  // namespace

Status MakeCudaGatherer(int device, int processors, const GathererOptions& options,
                        std::unique_ptr<Gatherer>& out) {
  ENGRAM_GPU_RETURN_IF_ERROR(CheckOptions(options));
  auto gatherer = std::make_unique<CudaGatherer>(device, processors, options);
  Status status = gatherer->Make();
  if (status.ok()) out = std::move(gatherer);
  return status;
}

}  // namespace engram::gpu_cache
