// `engramctl bench` over a GPU: one worker's steps, each a gather of every layer's rows on the GPU
// and the completion of what it did not find.
//
// One thread at a time.
#ifndef ENGRAM_CLIENT_CLI_GPU_STEPS_H_
#define ENGRAM_CLIENT_CLI_GPU_STEPS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/client.h"
#include "client/gpu_reader.h"
#include "gpu_cache/backend.h"

namespace engram {

class GpuSteps {
 public:
  // As GpuReader::Open. `on_host`: on the processor, for a daemon whose HBM tier lies in host
  // memory.
  static absl::StatusOr<std::unique_ptr<GpuSteps>> Open(const std::string& target,
                                                        const TableDescription& table,
                                                        bool on_host);

  // The request's layers and ids; its outputs are not written: rows stay on the device. The answer
  // says what each tier served.
  absl::StatusOr<LookupAnswer> Step(const LookupRequest& request);

 private:
  struct Layer {
    std::unique_ptr<GpuReader> reader;
    std::unique_ptr<gpu_cache::DeviceBuffer> ids;
    std::unique_ptr<gpu_cache::DeviceBuffer> rows;
  };
  absl::StatusOr<Layer*> Find(const LayerRequest& request);

  std::string target_;
  TableDescription table_;
  bool on_host_ = false;
  std::unique_ptr<gpu_cache::Backend> backend_;
  std::unique_ptr<gpu_cache::Stream> stream_;
  std::map<int32_t, Layer> layers_;
};

}  // namespace engram

#endif  // ENGRAM_CLIENT_CLI_GPU_STEPS_H_
