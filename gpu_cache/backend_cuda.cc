// One GPU through the CUDA runtime, which is linked statically and finds the driver by itself: the
// same program runs where there is none.
#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "gpu_cache/backend.h"
#include "gpu_cache/cuda_support.h"
#include "gpu_cache/device.h"
#include "gpu_cache/driver_memory.h"
#include "gpu_cache/kernels.h"

namespace engram::gpu_cache {
namespace {

// cudaMalloc's memory is shared in pieces of this size (the driver's).
constexpr uint64_t kIpcUnit = uint64_t{2} << 20;
// Through which records go to the arena and come from it.
constexpr uint64_t kStagingBytes = uint64_t{4} << 20;
constexpr uint32_t kStagingRecords = 1u << 16;

// Both kinds of arena: the memory differs, what is done with it does not. All work runs on a stream
// of its own, which no worker's stream waits for.
class CudaArena final : public ArenaMemory {
 public:
  CudaArena(int device, const ArenaExport& description)
      : device_(device), description_(description) {}
  ~CudaArena() override {
    cudaSetDevice(device_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  Status Make() {
    if (description_.kind == MemoryKind::kCudaVmm) {
      ENGRAM_GPU_RETURN_IF_ERROR(AllocateDriverMemory(device_, description_.bytes, driver_memory_));
      data_ = driver_memory_->data();
    } else {
      ENGRAM_GPU_RETURN_IF_ERROR(AllocateDevice(description_.bytes, own_memory_));
      data_ = own_memory_.get();
      cudaIpcMemHandle_t handle{};
      ENGRAM_GPU_RETURN_IF_ERROR(
          FromCuda("exporting GPU memory", cudaIpcGetMemHandle(&handle, data_)));
      static_assert(sizeof(handle) == kIpcHandleBytes);
      std::memcpy(description_.ipc_handle.data(), &handle, sizeof(handle));
    }
    int least = 0;
    int greatest = 0;
    cudaDeviceGetStreamPriorityRange(&least, &greatest);
    ENGRAM_GPU_RETURN_IF_ERROR(FromCuda(
        "making a stream", cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, least)));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocatePinned(kStagingBytes, staging_));
    ENGRAM_GPU_RETURN_IF_ERROR(AllocatePinned(kStagingRecords, offsets_));
    return Clear(0, description_.bytes);
  }

  const ArenaExport& description() const override { return description_; }
  int export_fd() const override { return driver_memory_ == nullptr ? -1 : driver_memory_->fd(); }

  Status Clear(uint64_t offset, uint64_t bytes) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    ENGRAM_GPU_RETURN_IF_ERROR(
        FromCuda("clearing GPU memory", cudaMemsetAsync(data_ + offset, 0, bytes, stream_)));
    return Wait();
  }

  Status Write(uint64_t offset, std::span<const std::byte> bytes) override {
    return Scatter({&offset, 1}, static_cast<uint32_t>(bytes.size()), bytes);
  }

  Status Publish(uint64_t offset, uint64_t word) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    ENGRAM_GPU_RETURN_IF_ERROR(FromCuda(
        "publishing", LaunchPublish(reinterpret_cast<uint64_t*>(data_ + offset), word, stream_)));
    return Wait();
  }

  Status Scatter(std::span<const uint64_t> offsets, uint32_t record_bytes,
                 std::span<const std::byte> records) override {
    return ByPieces(offsets, record_bytes, [&](size_t first, uint32_t count) -> Status {
      const uint64_t stride = RowStride(record_bytes);
      for (uint32_t i = 0; i < count; ++i) {
        std::byte* const to = &staging_[i * stride];
        std::memcpy(to, &records[(first + i) * record_bytes], record_bytes);
        std::memset(to + record_bytes, 0, stride - record_bytes);
      }
      ENGRAM_GPU_RETURN_IF_ERROR(FromCuda(
          "writing rows",
          LaunchScatter(data_, offsets_.get(), record_bytes, staging_.get(), count, stream_)));
      return Wait();
    });
  }

  Status Collect(std::span<const uint64_t> offsets, uint32_t record_bytes,
                 std::span<std::byte> records) override {
    return ByPieces(offsets, record_bytes, [&](size_t first, uint32_t count) -> Status {
      ENGRAM_GPU_RETURN_IF_ERROR(FromCuda(
          "reading rows",
          LaunchCollect(data_, offsets_.get(), record_bytes, staging_.get(), count, stream_)));
      ENGRAM_GPU_RETURN_IF_ERROR(Wait());
      const uint64_t stride = RowStride(record_bytes);
      for (uint32_t i = 0; i < count; ++i) {
        std::memcpy(&records[(first + i) * record_bytes], &staging_[i * stride], record_bytes);
      }
      return {};
    });
  }

 private:
  template <typename Move>
  Status ByPieces(std::span<const uint64_t> offsets, uint32_t record_bytes, Move move) {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    const uint64_t stride = RowStride(record_bytes);
    const uint64_t fit = kStagingBytes / stride;
    if (fit == 0) {
      return {Code::kInvalid, "records of " + std::to_string(record_bytes) + " bytes: at most " +
                                  std::to_string(kStagingBytes)};
    }
    for (size_t done = 0; done < offsets.size();) {
      const auto count =
          static_cast<uint32_t>(std::min<uint64_t>({fit, kStagingRecords, offsets.size() - done}));
      std::copy_n(offsets.begin() + done, count, offsets_.get());
      ENGRAM_GPU_RETURN_IF_ERROR(move(done, count));
      done += count;
    }
    return {};
  }

  Status Use() const { return FromCuda("using the GPU", cudaSetDevice(device_)); }
  Status Wait() { return FromCuda("waiting for the GPU", cudaStreamSynchronize(stream_)); }

  const int device_;
  ArenaExport description_;
  std::unique_ptr<DriverMemory> driver_memory_;
  DeviceArray<std::byte> own_memory_;
  std::byte* data_ = nullptr;
  PinnedArray<std::byte> staging_;
  PinnedArray<uint64_t> offsets_;
  cudaStream_t stream_ = nullptr;
};

class ImportedDriverMemory final : public MappedMemory {
 public:
  explicit ImportedDriverMemory(std::unique_ptr<DriverMemory> memory)
      : memory_(std::move(memory)) {}
  const std::byte* data() const override { return memory_->data(); }

 private:
  const std::unique_ptr<DriverMemory> memory_;
};

class ImportedIpcMemory final : public MappedMemory {
 public:
  explicit ImportedIpcMemory(void* data) : data_(data) {}
  ~ImportedIpcMemory() override { cudaIpcCloseMemHandle(data_); }
  const std::byte* data() const override { return static_cast<const std::byte*>(data_); }

 private:
  void* const data_;
};

class Registered final : public MappedMemory {
 public:
  Registered(std::byte* memory, void* address) : memory_(memory), address_(address) {}
  ~Registered() override { cudaHostUnregister(memory_); }
  const std::byte* data() const override { return static_cast<const std::byte*>(address_); }

 private:
  std::byte* const memory_;
  void* const address_;
};

class CudaBuffer final : public DeviceBuffer {
 public:
  Status Make(uint64_t bytes) { return AllocateDevice(bytes, memory_); }
  std::byte* data() const override { return memory_.get(); }
  Status Upload(uint64_t offset, std::span<const std::byte> bytes) override {
    return FromCuda("copying to the GPU", cudaMemcpy(data() + offset, bytes.data(), bytes.size(),
                                                     cudaMemcpyHostToDevice));
  }
  Status Download(uint64_t offset, std::span<std::byte> bytes) override {
    return FromCuda("copying from the GPU", cudaMemcpy(bytes.data(), data() + offset, bytes.size(),
                                                       cudaMemcpyDeviceToHost));
  }

 private:
  DeviceArray<std::byte> memory_;
};

class CudaStream final : public Stream {
 public:
  ~CudaStream() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Status Make() {
    return FromCuda("making a stream", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void* handle() const override { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <typename Made, typename Base, typename... Args>
Status MakeInto(std::unique_ptr<Base>& out, Args... args) {
  auto made = std::make_unique<Made>();
  Status status = made->Make(args...);
  if (status.ok()) out = std::move(made);
  return status;
}

class Cuda final : public Backend {
 public:
  explicit Cuda(int device) : device_(device) {}

  Status Open() {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    cudaDeviceProp properties{};
    ENGRAM_GPU_RETURN_IF_ERROR(
        FromCuda("asking for the GPU's properties", cudaGetDeviceProperties(&properties, device_)));
    name_ = properties.name;
    processors_ = properties.multiProcessorCount;
    can_register_read_only_ = properties.hostRegisterReadOnlySupported != 0;
    static_assert(sizeof(properties.uuid.bytes) == kDeviceIdBytes);
    std::memcpy(device_id_.data(), properties.uuid.bytes, kDeviceIdBytes);
    return FromCuda("making the GPU's context", cudaFree(nullptr));
  }

  std::string name() const override { return name_; }
  uint64_t FreeBytes() const override {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    if (!Use().ok() || cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) return 0;
    return free_bytes;
  }
  uint64_t AllocationUnit() const override { return std::max(kIpcUnit, DriverMemoryUnit(device_)); }

  Status Allocate(uint64_t bytes, MemoryKind kind, std::unique_ptr<ArenaMemory>& out) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    if (kind == MemoryKind::kHost) {
      return {Code::kUnsupported, "a GPU has no host memory"};
    }
    if (kind == MemoryKind::kCudaVmm && DriverMemoryUnit(device_) == 0) {
      return {Code::kUnsupported,
              name_ + " has no memory that others can map read-only (CUDA VMM)"};
    }
    auto arena = std::make_unique<CudaArena>(
        device_,
        ArenaExport{.kind = kind, .bytes = bytes, .device_id = device_id_, .ipc_handle = {}});
    Status status = arena->Make();
    if (status.ok()) out = std::move(arena);
    return status;
  }

  Status Import(const ArenaExport& arena, int fd, std::unique_ptr<MappedMemory>& out) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    if (arena.device_id != device_id_) {
      return {Code::kInvalid, "the daemon's HBM tier lies on another GPU than " + name_};
    }
    if (arena.kind == MemoryKind::kCudaVmm) {
      std::unique_ptr<DriverMemory> memory;
      ENGRAM_GPU_RETURN_IF_ERROR(ImportDriverMemory(device_, fd, arena.bytes, memory));
      out = std::make_unique<ImportedDriverMemory>(std::move(memory));
      return {};
    }
    if (arena.kind != MemoryKind::kCudaIpc) {
      return {Code::kInvalid,
              std::string("an arena in ") + MemoryKindName(arena.kind) + " is not for a GPU"};
    }
    cudaIpcMemHandle_t handle{};
    std::memcpy(&handle, arena.ipc_handle.data(), sizeof(handle));
    void* data = nullptr;
    ENGRAM_GPU_RETURN_IF_ERROR(
        FromCuda("opening the daemon's GPU memory",
                 cudaIpcOpenMemHandle(&data, handle, cudaIpcMemLazyEnablePeerAccess)));
    out = std::make_unique<ImportedIpcMemory>(data);
    return {};
  }

  bool CanRegisterReadOnly() const override { return can_register_read_only_; }

  Status Register(std::byte* memory, uint64_t bytes, bool read_only,
                  std::unique_ptr<MappedMemory>& out) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    if (read_only && !can_register_read_only_) {
      return {Code::kUnsupported, name_ + " cannot read host memory that is mapped read-only"};
    }
    const unsigned flags = cudaHostRegisterMapped | cudaHostRegisterPortable |
                           (read_only ? cudaHostRegisterReadOnly : 0);
    ENGRAM_GPU_RETURN_IF_ERROR(
        FromCuda("registering shared memory with the GPU", cudaHostRegister(memory, bytes, flags)));
    void* address = nullptr;
    const cudaError_t error = cudaHostGetDevicePointer(&address, memory, 0);
    if (error != cudaSuccess) {
      cudaHostUnregister(memory);
      return FromCuda("registering shared memory with the GPU", error);
    }
    out = std::make_unique<Registered>(memory, address);
    return {};
  }

  Status MakeGatherer(const GathererOptions& options, std::unique_ptr<Gatherer>& out) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    return MakeCudaGatherer(device_, processors_, options, out);
  }
  Status MakeBuffer(uint64_t bytes, std::unique_ptr<DeviceBuffer>& out) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    return MakeInto<CudaBuffer>(out, bytes);
  }
  Status MakeStream(std::unique_ptr<Stream>& out) override {
    ENGRAM_GPU_RETURN_IF_ERROR(Use());
    return MakeInto<CudaStream>(out);
  }

 private:
  Status Use() const { return FromCuda("using the GPU", cudaSetDevice(device_)); }

  const int device_;
  int processors_ = 0;
  bool can_register_read_only_ = false;
  std::string name_;
  std::array<uint8_t, kDeviceIdBytes> device_id_{};
};

}  // namespace

Status OpenCuda(int ordinal, std::unique_ptr<Backend>& out) {
  const DeviceReport report = ProbeDevice();
  if (!report.usable) return {Code::kUnsupported, report.reason};
  int count = 0;
  ENGRAM_GPU_RETURN_IF_ERROR(FromCuda("counting GPUs", cudaGetDeviceCount(&count)));
  if (ordinal < 0 || ordinal >= count) {
    return {Code::kInvalid,
            "there is no GPU " + std::to_string(ordinal) + ": CUDA shows " + std::to_string(count)};
  }
  auto cuda = std::make_unique<Cuda>(ordinal);
  Status status = cuda->Open();
  if (status.ok()) out = std::move(cuda);
  return status;
}

}  // namespace engram::gpu_cache
