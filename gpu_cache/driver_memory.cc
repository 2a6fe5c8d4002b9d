#include "gpu_cache/driver_memory.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <string>

namespace engram::gpu_cache {
namespace {

// The functions that are needed, as the driver has them; null: it has not.
struct Driver {
  decltype(&cuGetErrorString) get_error_string = nullptr;
  decltype(&cuDeviceGetAttribute) device_get_attribute = nullptr;
  decltype(&cuMemGetAllocationGranularity) get_granularity = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_address = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  bool complete = false;
};

template <typename Function>
bool LookUp(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  constexpr unsigned kVersion = 11020;  // since when all of these are there
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &address, kVersion, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) return false;
  function = reinterpret_cast<Function>(address);
  return true;
}

const Driver& TheDriver() {
  static const Driver driver = [] {
    Driver d;
    d.complete = LookUp("cuGetErrorString", d.get_error_string) &&
                 LookUp("cuDeviceGetAttribute", d.device_get_attribute) &&
                 LookUp("cuMemGetAllocationGranularity", d.get_granularity) &&
                 LookUp("cuMemCreate", d.create) && LookUp("cuMemRelease", d.release) &&
                 LookUp("cuMemAddressReserve", d.reserve) &&
                 LookUp("cuMemAddressFree", d.free_address) && LookUp("cuMemMap", d.map) &&
                 LookUp("cuMemUnmap", d.unmap) && LookUp("cuMemSetAccess", d.set_access) &&
                 LookUp("cuMemExportToShareableHandle", d.export_handle) &&
                 LookUp("cuMemImportFromShareableHandle", d.import_handle);
    return d;
  }();
  return driver;
}

Status Failed(const char* what, CUresult result) {
  const char* text = nullptr;
  TheDriver().get_error_string(result, &text);
  const Code code = result == CUDA_ERROR_OUT_OF_MEMORY    ? Code::kExhausted
                    : result == CUDA_ERROR_NOT_SUPPORTED  ? Code::kUnsupported
                    : result == CUDA_ERROR_INVALID_VALUE  ? Code::kInvalid
                    : result == CUDA_ERROR_INVALID_HANDLE ? Code::kInvalid
                                                          : Code::kUnavailable;
  return {code, std::string(what) + ": " + (text == nullptr ? "unknown error" : text)};
}

CUmemAllocationProp Properties(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

class Mapped final : public DriverMemory {
 public:
  explicit Mapped(uint64_t bytes) : bytes_(bytes) {}
  ~Mapped() override {
    const Driver& driver = TheDriver();
    if (mapped_) driver.unmap(address_, bytes_);
    if (address_ != 0) driver.free_address(address_, bytes_);
    if (has_handle_) driver.release(handle_);
    if (fd_ >= 0) close(fd_);
  }

  Status Make(int device) {
    const CUmemAllocationProp properties = Properties(device);
    const CUresult created = TheDriver().create(&handle_, bytes_, &properties, 0);
    if (created != CUDA_SUCCESS) return Failed("allocating GPU memory", created);
    has_handle_ = true;
    const CUresult exported =
        TheDriver().export_handle(&fd_, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    if (exported != CUDA_SUCCESS) return Failed("exporting GPU memory", exported);
    return MapWith(device, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  }

  Status Take(int device, int fd) {
    void* const os_handle = reinterpret_cast<void*>(static_cast<intptr_t>(fd));
    const CUresult imported =
        TheDriver().import_handle(&handle_, os_handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (imported != CUDA_SUCCESS) return Failed("importing the daemon's GPU memory", imported);
    has_handle_ = true;
    return MapWith(device, CU_MEM_ACCESS_FLAGS_PROT_READ);
  }

  std::byte* data() const override {
    return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(address_));
  }
  int fd() const override { return fd_; }

 private:
  Status MapWith(int device, CUmemAccess_flags access) {
    const Driver& driver = TheDriver();
    CUresult result = driver.reserve(&address_, bytes_, 0, 0, 0);
    if (result != CUDA_SUCCESS) return Failed("reserving addresses for GPU memory", result);
    result = driver.map(address_, bytes_, 0, handle_, 0);
    if (result != CUDA_SUCCESS) return Failed("mapping GPU memory", result);
    mapped_ = true;
    CUmemAccessDesc description{};
    description.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    description.location.id = device;
    description.flags = access;
    result = driver.set_access(address_, bytes_, &description, 1);
    return result == CUDA_SUCCESS ? Status() : Failed("setting access to GPU memory", result);
  }

  const uint64_t bytes_;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  bool has_handle_ = false;
  bool mapped_ = false;
  int fd_ = -1;
};

}  // namespace

uint64_t DriverMemoryUnit(int device) {
  const Driver& driver = TheDriver();
  if (!driver.complete) return 0;
  for (const CUdevice_attribute attribute :
       {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED}) {
    int supported = 0;
    if (driver.device_get_attribute(&supported, attribute, device) != CUDA_SUCCESS ||
        supported == 0) {
      return 0;
    }
  }
  const CUmemAllocationProp properties = Properties(device);
  size_t unit = 0;
  if (driver.get_granularity(&unit, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM) !=
      CUDA_SUCCESS) {
    return 0;
  }
  return unit;
}

Status AllocateDriverMemory(int device, uint64_t bytes, std::unique_ptr<DriverMemory>& out) {
  auto memory = std::make_unique<Mapped>(bytes);
  Status status = memory->Make(device);
  if (status.ok()) out = std::move(memory);
  return status;
}

Status ImportDriverMemory(int device, int fd, uint64_t bytes, std::unique_ptr<DriverMemory>& out) {
  if (DriverMemoryUnit(device) == 0) {
    return {Code::kUnsupported, "this driver cannot map GPU memory of another process (CUDA VMM)"};
  }
  auto memory = std::make_unique<Mapped>(bytes);
  Status status = memory->Take(device, fd);
  if (status.ok()) out = std::move(memory);
  return status;
}

}  // namespace engram::gpu_cache
