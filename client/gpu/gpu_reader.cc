#include "client/gpu_reader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/gpu/gpu_source.h"
#include "client/grpc/channel.h"
#include "client/local/shm_tables.h"
#include "gpu_cache/backend.h"
#include "storage/base/status_macros.h"
#include "storage/dram/access_ring.h"

namespace engram {
namespace {

static_assert(kDeadPosition == dram::kDeadPosition);

class GpuReaderImpl final : public GpuReader {
 public:
  explicit GpuReaderImpl(const GpuReaderOptions& options) : options_(options) {}

  absl::Status Start() {
    ENGRAM_ASSIGN_OR_RETURN(client_, Client::Connect(options_.client));
    ENGRAM_ASSIGN_OR_RETURN(
        table_, client_->OpenTable(options_.table, options_.expected, options_.version));
    const auto layer =
        std::find_if(table_.layers.begin(), table_.layers.end(),
                     [&](const LayerInfo& one) { return one.layer == options_.layer; });
    if (layer == table_.layers.end()) {
      return absl::NotFoundError(
          absl::StrCat("table '", options_.table, "' has no layer ", options_.layer));
    }
    row_bytes_ = layer->row_bytes;
    ENGRAM_RETURN_IF_ERROR(OpenDevice());
    absl::string_view path = options_.client.target;
    if (!absl::ConsumePrefix(&path, "unix:")) return absl::OkStatus();
    ENGRAM_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                            OpenChannel(options_.client.target, options_.client.max_answer_bytes,
                                        options_.client.connect_timeout));
    tables_ = std::make_unique<ShmTables>(std::move(channel), std::string(path));
    return absl::OkStatus();
  }

  uint32_t row_bytes() const override { return row_bytes_; }
  uint64_t output_row_bytes() const override {
    return gpu_cache::OutputRowBytes(row_bytes_, Output());
  }
  const TableDescription& table() const override { return table_; }
  Client& client() override { return *client_; }
  std::string note() const override {
    return absl::StrCat(backend_->name(), "; ",
                        tables_ == nullptr ? "the daemon is on another host, as far as its target "
                                             "says: all rows come over gRPC"
                                           : source_->note());
  }

  absl::Status Refresh(void* stream) override {
    if (tables_ == nullptr || source_->Holds()) return absl::OkStatus();
    return source_->Use(tables_->Get(options_.table, table_.version), stream);
  }

  absl::Status Enqueue(const uint32_t* ids, uint32_t count, void* out, void* stream) override {
    return ToAbsl(gatherer_->Enqueue(ids, count, static_cast<std::byte*>(out), stream));
  }

  absl::StatusOr<Result> Complete(void* out, void* stream,
                                  std::chrono::milliseconds deadline) override {
    ENGRAM_RETURN_IF_ERROR(ToAbsl(gatherer_->Wait(stream)));
    const gpu_cache::Report report = gatherer_->report();
    Result result{.hbm_rows = report.hbm_rows - seen_.hbm_rows,
                  .dram_rows = report.dram_rows - seen_.dram_rows,
                  .fetched_rows = 0,
                  .nvme_rows = 0};
    if (report.launches != seen_.launches) {
      source_->Tell(result.hbm_rows, result.dram_rows, report.missing == 0, gatherer_->samples());
      seen_ = report;
      incomplete_ = report.missing > 0;
    }
    // Also what an earlier call could not fetch.
    if (incomplete_) {
      ENGRAM_ASSIGN_OR_RETURN(result.nvme_rows,
                              Fetch(static_cast<std::byte*>(out), stream, deadline));
      result.fetched_rows = report.missing;
      incomplete_ = false;
    }
    return result;
  }

 private:
  gpu_cache::Output Output() const {
    return options_.output == GpuOutput::kRaw ? gpu_cache::Output::kRaw : gpu_cache::Output::kBf16;
  }

  absl::Status OpenDevice() {
    if (options_.host_memory) {
      backend_ = gpu_cache::HostBackend();
    } else {
      ENGRAM_RETURN_IF_ERROR(ToAbsl(gpu_cache::OpenCuda(options_.gpu, backend_)));
    }
    ENGRAM_RETURN_IF_ERROR(ToAbsl(backend_->MakeGatherer({.row_bytes = row_bytes_,
                                                          .max_rows = options_.max_rows,
                                                          .output = Output(),
                                                          .sample_every = dram::kSampleEvery},
                                                         gatherer_)));
    source_ =
        std::make_unique<GpuSource>(backend_.get(), gatherer_.get(), options_.layer, row_bytes_);
    return absl::OkStatus();
  }

  // How many of the missing rows came from the drive.
  absl::StatusOr<uint64_t> Fetch(std::byte* out, void* stream, std::chrono::milliseconds deadline) {
    positions_.clear();
    ids_.clear();
    for (const gpu_cache::Miss& miss : gatherer_->missing()) {
      positions_.push_back(miss.position);
      ids_.push_back(miss.row_id);
    }
    rows_.resize(ids_.size() * row_bytes_);
    LookupRequest request;
    request.table = options_.table;
    request.version = table_.version;
    request.layers = {{.layer = options_.layer, .row_ids = ids_, .out = absl::MakeSpan(rows_)}};
    request.expect_table_digest = table_.table_digest;
    request.deadline = deadline;
    ENGRAM_ASSIGN_OR_RETURN(const LookupAnswer answer, client_->Lookup(request));
    ENGRAM_RETURN_IF_ERROR(
        ToAbsl(gatherer_->Complete(positions_, {rows_.data(), rows_.size()}, out, stream)));
    return answer.layers.empty() ? 0 : answer.layers.front().nvme_rows;
  }

  const GpuReaderOptions options_;
  std::unique_ptr<Client> client_;
  TableDescription table_;
  uint32_t row_bytes_ = 0;
  std::unique_ptr<ShmTables> tables_;  // null: the daemon is not on this host
  // In this order: what is mapped goes before the device.
  std::unique_ptr<gpu_cache::Backend> backend_;
  std::unique_ptr<gpu_cache::Gatherer> gatherer_;
  std::unique_ptr<GpuSource> source_;
  gpu_cache::Report seen_;
  bool incomplete_ = false;  // the last gather has places that nothing was put to yet
  // Kept, so that a step allocates nothing once they have grown.
  std::vector<uint32_t> positions_;
  std::vector<uint32_t> ids_;
  std::vector<std::byte> rows_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuReader>> GpuReader::Open(const GpuReaderOptions& options) {
  auto reader = std::make_unique<GpuReaderImpl>(options);
  ENGRAM_RETURN_IF_ERROR(reader->Start());
  return std::unique_ptr<GpuReader>(std::move(reader));
}

}  // namespace engram
