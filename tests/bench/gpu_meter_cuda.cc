#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/gpu_meter.h"

namespace engram::bench {
namespace {

constexpr int kWarmUps = 5;

absl::Status Check(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// Each is destroyed with the object.
struct Graph {
  ~Graph() {
    if (replay != nullptr) cudaGraphExecDestroy(replay);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
};

class CudaMeter final : public GpuMeter {
 public:
  ~CudaMeter() override {
    if (begin_ != nullptr) cudaEventDestroy(begin_);
    if (end_ != nullptr) cudaEventDestroy(end_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  absl::Status Start() {
    if (const gpu_cache::Status status = gpu_cache::OpenCuda(0, backend_); !status.ok()) {
      return absl::FailedPreconditionError(status.message());
    }
    ENGRAM_RETURN_IF_ERROR(
        Check("a stream", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)));
    ENGRAM_RETURN_IF_ERROR(Check("an event", cudaEventCreate(&begin_)));
    ENGRAM_RETURN_IF_ERROR(Check("an event", cudaEventCreate(&end_)));
    return Check("the driver's version", cudaDriverGetVersion(&driver_));
  }

  gpu_cache::Backend& backend() override { return *backend_; }
  std::string card() const override { return backend_->name(); }
  std::string driver() const override {
    return absl::StrCat(driver_ / 1000, ".", driver_ % 1000 / 10);
  }

  absl::StatusOr<double> Replay(const std::function<gpu_cache::Status(void* stream)>& work,
                                int replays) override {
    Graph graph;
    ENGRAM_RETURN_IF_ERROR(
        Check("capture", cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal)));
    const gpu_cache::Status status = work(stream_);
    ENGRAM_RETURN_IF_ERROR(Check("capture", cudaStreamEndCapture(stream_, &graph.graph)));
    if (!status.ok()) return absl::UnavailableError(status.message());
    ENGRAM_RETURN_IF_ERROR(Check("a graph", cudaGraphInstantiate(&graph.replay, graph.graph, 0)));
    for (int i = 0; i < kWarmUps; ++i) {
      ENGRAM_RETURN_IF_ERROR(Check("a replay", cudaGraphLaunch(graph.replay, stream_)));
    }
    ENGRAM_RETURN_IF_ERROR(Check("an event", cudaEventRecord(begin_, stream_)));
    for (int i = 0; i < replays; ++i) {
      ENGRAM_RETURN_IF_ERROR(Check("a replay", cudaGraphLaunch(graph.replay, stream_)));
    }
    ENGRAM_RETURN_IF_ERROR(Check("an event", cudaEventRecord(end_, stream_)));
    ENGRAM_RETURN_IF_ERROR(Check("the stream", cudaStreamSynchronize(stream_)));
    float milliseconds = 0;
    ENGRAM_RETURN_IF_ERROR(Check("an event", cudaEventElapsedTime(&milliseconds, begin_, end_)));
    return static_cast<double>(milliseconds) / 1e3 / replays;
  }

  absl::StatusOr<double> DeviceCopy(uint64_t bytes, int replays) override {
    std::unique_ptr<gpu_cache::DeviceBuffer> from, to;
    gpu_cache::Status status = backend_->MakeBuffer(bytes, from);
    if (status.ok()) status = backend_->MakeBuffer(bytes, to);
    if (!status.ok()) return absl::ResourceExhaustedError(status.message());
    return Copy(to->data(), from->data(), bytes, cudaMemcpyDeviceToDevice, replays);
  }

  absl::StatusOr<double> HostCopy(uint64_t bytes, int replays) override {
    std::unique_ptr<gpu_cache::DeviceBuffer> to;
    if (const auto status = backend_->MakeBuffer(bytes, to); !status.ok()) {
      return absl::ResourceExhaustedError(status.message());
    }
    void* pinned = nullptr;
    ENGRAM_RETURN_IF_ERROR(Check("pinned memory", cudaMallocHost(&pinned, bytes)));
    auto seconds = Copy(to->data(), pinned, bytes, cudaMemcpyHostToDevice, replays);
    cudaFreeHost(pinned);
    return seconds;
  }

 private:
  absl::StatusOr<double> Copy(void* to, const void* from, uint64_t bytes, cudaMemcpyKind kind,
                              int replays) {
    return Replay(
        [&](void* stream) -> gpu_cache::Status {
          const cudaError_t error =
              cudaMemcpyAsync(to, from, bytes, kind, static_cast<cudaStream_t>(stream));
          if (error == cudaSuccess) return {};
          return {gpu_cache::Code::kUnavailable, cudaGetErrorString(error)};
        },
        replays);
  }

  std::unique_ptr<gpu_cache::Backend> backend_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  int driver_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuMeter>> GpuMeter::Open() {
  auto meter = std::make_unique<CudaMeter>();
  ENGRAM_RETURN_IF_ERROR(meter->Start());
  return std::unique_ptr<GpuMeter>(std::move(meter));
}

}  // namespace engram::bench
