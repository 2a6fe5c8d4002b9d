// Host memory as a backend, for tests that take something away from it or put faults in between.
#ifndef ENGRAM_TESTS_UNIT_GPU_CACHE_WRAPPED_BACKEND_H_
#define ENGRAM_TESTS_UNIT_GPU_CACHE_WRAPPED_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "gpu_cache/backend.h"

namespace engram::gpu_cache {

class WrappedBackend : public Backend {
 public:
  std::string name() const override { return "a device of the test"; }
  uint64_t FreeBytes() const override { return host_->FreeBytes(); }
  uint64_t AllocationUnit() const override { return host_->AllocationUnit(); }
  Status Allocate(uint64_t bytes, MemoryKind kind, std::unique_ptr<ArenaMemory>& out) override {
    return host_->Allocate(bytes, kind, out);
  }
  Status Import(const ArenaExport& arena, int fd, std::unique_ptr<MappedMemory>& out) override {
    return host_->Import(arena, fd, out);
  }
  bool CanRegisterReadOnly() const override { return true; }
  Status Register(std::byte* memory, uint64_t bytes, bool read_only,
                  std::unique_ptr<MappedMemory>& out) override {
    return host_->Register(memory, bytes, read_only, out);
  }
  Status MakeGatherer(const GathererOptions& options, std::unique_ptr<Gatherer>& out) override {
    return host_->MakeGatherer(options, out);
  }
  Status MakeBuffer(uint64_t bytes, std::unique_ptr<DeviceBuffer>& out) override {
    return host_->MakeBuffer(bytes, out);
  }
  Status MakeStream(std::unique_ptr<Stream>& out) override { return host_->MakeStream(out); }

 private:
  const std::unique_ptr<Backend> host_ = HostBackend();
};

}  // namespace engram::gpu_cache

#endif  // ENGRAM_TESTS_UNIT_GPU_CACHE_WRAPPED_BACKEND_H_
