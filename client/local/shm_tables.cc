#include "client/local/shm_tables.h"

#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "client/grpc/message.h"
#include "engram/v1/store.pb.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr char kAttach[] = "/engram.v1.EngramStore/Attach";
constexpr std::chrono::milliseconds kAttachTimeout{1000};
// After a failure: the daemon is away, has no such table, or shares nothing.
constexpr std::chrono::milliseconds kAttachPause{1000};
// Memory that comes and goes while it is described: a few times in a row is a switch of versions.
constexpr int kAttachAttempts = 5;
// Names of tables are the caller's; a bound all the same.
constexpr size_t kMaxTables = 1024;

AttachedShape FromWire(const v1::DramLayer& wire, const std::string& table_digest) {
  AttachedShape layer;
  layer.layer = wire.layer();
  layer.stack_id = wire.stack_id();
  layer.shape = {.mode = wire.resident() ? dram::Mode::kResident : dram::Mode::kCache,
                 .row_bytes = wire.row_bytes(),
                 .layer_rows = wire.rows(),
                 .segments = static_cast<uint32_t>(wire.segment_ids_size()),
                 .per_segment = wire.per_segment(),
                 .page_bytes = wire.page_bytes()};
  layer.table_digest = table_digest;
  layer.segment_ids.assign(wire.segment_ids().begin(), wire.segment_ids().end());
  layer.bucket_segments.resize(wire.bucket_segments().size() / sizeof(uint16_t));
  if (!layer.bucket_segments.empty()) {
    std::memcpy(layer.bucket_segments.data(), wire.bucket_segments().data(),
                layer.bucket_segments.size() * sizeof(uint16_t));
  }
  layer.huge_pages = wire.huge_pages();
  return layer;
}

// None for a kind that this client does not know.
std::optional<gpu_cache::MemoryKind> FromWire(v1::ArenaKind kind) {
  switch (kind) {
    case v1::ARENA_KIND_HOST_MEMORY:
      return gpu_cache::MemoryKind::kHost;
    case v1::ARENA_KIND_CUDA_VMM:
      return gpu_cache::MemoryKind::kCudaVmm;
    case v1::ARENA_KIND_CUDA_IPC:
      return gpu_cache::MemoryKind::kCudaIpc;
    default:
      return std::nullopt;
  }
}

// What this client cannot read is as good as none.
void ReadHbm(const v1::AttachResponse& response, ShmTable& table) {
  table.hbm_note = response.hbm_note();
  table.writable_dram = response.writable_dram();
  const v1::HbmArena& arena = response.hbm();
  gpu_cache::ArenaExport& to = table.arena;
  if (!response.has_hbm()) return;
  const std::optional<gpu_cache::MemoryKind> kind = FromWire(arena.kind());
  if (!kind.has_value() || arena.layout_version() != gpu_cache::kArenaLayoutVersion ||
      arena.device_id().size() != to.device_id.size() ||
      (!arena.ipc_handle().empty() && arena.ipc_handle().size() != to.ipc_handle.size())) {
    table.hbm_note = "the daemon's HBM tier is of another layout: use a client of its release";
    return;
  }
  to.kind = *kind;
  to.bytes = arena.bytes();
  std::memcpy(to.device_id.data(), arena.device_id().data(), to.device_id.size());
  if (!arena.ipc_handle().empty()) {
    std::memcpy(to.ipc_handle.data(), arena.ipc_handle().data(), to.ipc_handle.size());
  }
  for (const v1::HbmLayer& layer : response.hbm_layers()) {
    if (layer.region() >= gpu_cache::kMaxRegions) continue;
    table.hbm_layers.push_back({.layer = layer.layer(),
                                .stack_id = layer.stack_id(),
                                .region = layer.region(),
                                .row_bytes = layer.row_bytes()});
  }
}

}  // namespace

const AttachedLayer* ShmTable::Find(int32_t layer) const {
  for (const std::unique_ptr<AttachedLayer>& one : layers) {
    if (one->layer() == layer) return one.get();
  }
  return nullptr;
}

ShmTables::ShmTables(std::shared_ptr<grpc::Channel> channel, std::string socket_path)
    : socket_path_(std::move(socket_path)), caller_(std::move(channel)) {}

absl::Status ShmTables::Connect(uint64_t instance) {
  if (link_ != nullptr && !link_->ended() && link_->instance() == instance) {
    return absl::OkStatus();
  }
  ENGRAM_ASSIGN_OR_RETURN(
      link_, AttachLink::Connect(absl::StrCat(socket_path_, dram::kHandoverSuffix), instance));
  return absl::OkStatus();
}

absl::Status ShmTables::Probe(std::chrono::milliseconds timeout) {
  grpc::ByteBuffer answer;
  v1::AttachResponse response;
  MutexLock lock(attach_mutex_);
  ENGRAM_RETURN_IF_ERROR(caller_.Call(kAttach, ToBuffer(v1::AttachRequest()), timeout, &answer));
  ENGRAM_RETURN_IF_ERROR(FromBuffer(&answer, &response));
  return Connect(response.instance());
}

std::shared_ptr<const ShmTable> ShmTables::Mapped(const Key& key) const {
  MutexLock lock(mutex_);
  const auto found = mapped_.find(key);
  return found == mapped_.end() ? nullptr : found->second;
}

std::shared_ptr<const ShmTable> ShmTables::Get(const std::string& table, uint64_t version) {
  const Key key(table, version);
  std::shared_ptr<const ShmTable> mapped = Mapped(key);
  if (mapped != nullptr && mapped->Holds()) return mapped;
  if (!attach_mutex_.TryLock()) return nullptr;
  // As a MutexLock, which has no try.
  mapped = Mapped(key);
  if (mapped == nullptr || !mapped->Holds()) {
    mapped = nullptr;
    const auto pause = not_before_.find(key);
    if (pause == not_before_.end() || Clock::now() >= pause->second) {
      absl::StatusOr<std::shared_ptr<const ShmTable>> attached = Attach(key);
      if (attached.ok()) {
        mapped = *std::move(attached);
        not_before_.erase(key);
        MutexLock lock(mutex_);
        if (mapped_.size() >= kMaxTables) mapped_.clear();
        mapped_[key] = mapped;
      } else {
        if (not_before_.size() >= kMaxTables) not_before_.clear();
        not_before_[key] = Clock::now() + kAttachPause;
        MutexLock lock(mutex_);
        mapped_.erase(key);
      }
    }
  }
  attach_mutex_.Unlock();
  return mapped;
}

absl::StatusOr<std::shared_ptr<const ShmTable>> ShmTables::Attach(const Key& key) {
  absl::Status last = absl::UnavailableError("not tried");
  for (int attempt = 0; attempt < kAttachAttempts; ++attempt) {
    v1::AttachRequest request;
    request.set_table(key.first);
    request.set_version(key.second);
    grpc::ByteBuffer answer;
    v1::AttachResponse response;
    ENGRAM_RETURN_IF_ERROR(caller_.Call(kAttach, ToBuffer(request), kAttachTimeout, &answer));
    ENGRAM_RETURN_IF_ERROR(FromBuffer(&answer, &response));
    ENGRAM_RETURN_IF_ERROR(Connect(response.instance()));
    auto table = std::make_shared<ShmTable>();
    table->link = link_;
    table->generation = response.generation();
    table->version = response.version();
    table->table_digest = response.table_digest();
    ReadHbm(response, *table);
    last = absl::OkStatus();
    for (const v1::DramLayer& wire : response.layers()) {
      absl::StatusOr<std::unique_ptr<AttachedLayer>> layer =
          AttachedLayer::Map(link_, FromWire(wire, response.table_digest()));
      if (!layer.ok()) {
        last = layer.status();
        break;
      }
      table->layers.push_back(*std::move(layer));
    }
    if (last.ok() && table->Holds()) return std::shared_ptr<const ShmTable>(std::move(table));
    if (last.ok()) last = absl::UnavailableError("the daemon's memory keeps changing");
  }
  return last;
}

}  // namespace engram
