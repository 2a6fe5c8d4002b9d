#include "client/cli/gpu_steps.h"

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "storage/base/status_macros.h"

namespace engram {
namespace {

absl::Status Check(const gpu_cache::Status& status) {
  return status.ok() ? absl::OkStatus() : absl::FailedPreconditionError(status.message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuSteps>> GpuSteps::Open(const std::string& target,
                                                         const TableDescription& table,
                                                         bool on_host) {
  auto steps = std::make_unique<GpuSteps>();
  steps->target_ = target;
  steps->table_ = table;
  steps->on_host_ = on_host;
  if (on_host) {
    steps->backend_ = gpu_cache::HostBackend();
  } else {
    ENGRAM_RETURN_IF_ERROR(Check(gpu_cache::OpenCuda(0, steps->backend_)));
  }
  ENGRAM_RETURN_IF_ERROR(Check(steps->backend_->MakeStream(steps->stream_)));
  return steps;
}

// Readers are made at the first step, which is therefore not to be measured.
absl::StatusOr<GpuSteps::Layer*> GpuSteps::Find(const LayerRequest& request) {
  if (const auto found = layers_.find(request.layer); found != layers_.end()) {
    return &found->second;
  }
  GpuReaderOptions options;
  options.client.target = target_;
  options.table = table_.name;
  options.version = table_.version;
  options.layer = request.layer;
  options.max_rows = static_cast<uint32_t>(request.row_ids.size());
  options.host_memory = on_host_;
  Layer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.reader, GpuReader::Open(options));
  ENGRAM_RETURN_IF_ERROR(
      Check(backend_->MakeBuffer(request.row_ids.size() * sizeof(uint32_t), layer.ids)));
  ENGRAM_RETURN_IF_ERROR(Check(
      backend_->MakeBuffer(request.row_ids.size() * layer.reader->output_row_bytes(), layer.rows)));
  return &layers_.emplace(request.layer, std::move(layer)).first->second;
}

absl::StatusOr<LookupAnswer> GpuSteps::Step(const LookupRequest& request) {
  std::vector<Layer*> layers;
  for (const LayerRequest& wanted : request.layers) {
    ENGRAM_ASSIGN_OR_RETURN(layers.emplace_back(), Find(wanted));
  }
  // All are put on the stream before the first is waited for, as a model would.
  for (size_t i = 0; i < layers.size(); ++i) {
    const absl::Span<const uint32_t> ids = request.layers[i].row_ids;
    ENGRAM_RETURN_IF_ERROR(layers[i]->reader->Refresh(stream_->handle()));
    ENGRAM_RETURN_IF_ERROR(
        Check(layers[i]->ids->Upload(0, std::as_bytes(std::span(ids.data(), ids.size())))));
    ENGRAM_RETURN_IF_ERROR(layers[i]->reader->Enqueue(
        reinterpret_cast<const uint32_t*>(layers[i]->ids->data()),
        static_cast<uint32_t>(ids.size()), layers[i]->rows->data(), stream_->handle()));
  }
  LookupAnswer answer{.version = table_.version, .layers = {}};
  for (size_t i = 0; i < layers.size(); ++i) {
    ENGRAM_ASSIGN_OR_RETURN(
        const GpuReader::Result result,
        layers[i]->reader->Complete(layers[i]->rows->data(), stream_->handle()));
    LayerAnswer& layer = answer.layers.emplace_back();
    layer.layer = request.layers[i].layer;
    layer.row_bytes = layers[i]->reader->row_bytes();
    layer.hbm_rows = result.hbm_rows;
    layer.nvme_rows = result.nvme_rows;
    layer.dram_rows = result.dram_rows + result.fetched_rows - result.nvme_rows;
  }
  return answer;
}

}  // namespace engram
