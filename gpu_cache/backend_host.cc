// Host memory in the part of a GPU: the arena is a sealed file in memory, a gather runs when it is
// put on the stream.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "gpu_cache/backend.h"
#include "gpu_cache/gather_rows.h"
#include "gpu_cache/gatherer_checks.h"

namespace engram::gpu_cache {
namespace {

constexpr uint64_t kPageBytes = 4096;

std::string WithErrno(const std::string& what) { return what + ": " + std::strerror(errno); }

class Mapping final : public MappedMemory {
 public:
  Mapping(std::byte* data, uint64_t bytes, bool owned)
      : data_(data), bytes_(bytes), owned_(owned) {}
  ~Mapping() override {
    if (owned_) munmap(data_, bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const std::byte* data() const override { return data_; }

 private:
  std::byte* const data_;
  const uint64_t bytes_;
  const bool owned_;
};

class HostArena final : public ArenaMemory {
 public:
  ~HostArena() override {
    if (data_ != nullptr) munmap(data_, description_.bytes);
    if (fd_ >= 0) close(fd_);
  }

  Status Make(uint64_t bytes) {
    description_ = {.kind = MemoryKind::kHost, .bytes = bytes};
    fd_ = memfd_create("engram-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd_ < 0) return {Code::kUnsupported, WithErrno("memfd_create")};
    if (ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
      return {Code::kExhausted, WithErrno("an arena of " + std::to_string(bytes) + " bytes")};
    }
    // What is allocated now does not end a process later.
    if (const int error = posix_fallocate(fd_, 0, static_cast<off_t>(bytes)); error != 0) {
      return {Code::kExhausted,
              "an arena of " + std::to_string(bytes) + " bytes: " + std::strerror(error)};
    }
    void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (data == MAP_FAILED) {
      return {Code::kExhausted,
              WithErrno("mapping an arena of " + std::to_string(bytes) + " bytes")};
    }
    data_ = static_cast<std::byte*>(data);
    // Readers rely on the size; and from now on nobody else gets to write it, by this descriptor or
    // by any other.
    constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
    if (fcntl(fd_, F_ADD_SEALS, kSeals) != 0) {
      return {Code::kUnsupported, WithErrno("sealing the arena")};
    }
    return {};
  }

  const ArenaExport& description() const override { return description_; }
  int export_fd() const override { return fd_; }

  Status Clear(uint64_t offset, uint64_t bytes) override {
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (uint64_t at = 0; at < bytes; at += 8) Store(offset + at, 0);
    return {};
  }

  Status Write(uint64_t offset, std::span<const std::byte> bytes) override {
    return Scatter({&offset, 1}, static_cast<uint32_t>(bytes.size()), bytes);
  }

  Status Publish(uint64_t offset, uint64_t word) override {
    __atomic_store_n(WordAt(offset), word, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_RELEASE);  // for what is written later
    return {};
  }

  Status Scatter(std::span<const uint64_t> offsets, uint32_t record_bytes,
                 std::span<const std::byte> records) override {
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (size_t i = 0; i < offsets.size(); ++i) {
      const std::byte* const record = records.data() + i * record_bytes;
      for (uint32_t at = 0; at < record_bytes; at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, record + at, std::min<uint32_t>(8, record_bytes - at));
        Store(offsets[i] + at, word);
      }
    }
    return {};
  }

  Status Collect(std::span<const uint64_t> offsets, uint32_t record_bytes,
                 std::span<std::byte> records) override {
    for (size_t i = 0; i < offsets.size(); ++i) {
      std::memcpy(records.data() + i * record_bytes, data_ + offsets[i], record_bytes);
    }
    return {};
  }

 private:
  uint64_t* WordAt(uint64_t offset) { return reinterpret_cast<uint64_t*>(data_ + offset); }
  void Store(uint64_t offset, uint64_t word) {
    __atomic_store_n(WordAt(offset), word, __ATOMIC_RELAXED);
  }

  ArenaExport description_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
};

class HostGatherer final : public Gatherer {
 public:
  HostGatherer(const GathererOptions& options, void (*gather)(const GatherArgs&))
      : options_(options),
        gather_(gather),
        missing_(options.max_rows),
        samples_(options.max_rows + 1) {}

  Status SetSource(const Source& source, std::span<const std::byte* const> segments,
                   std::span<const uint16_t> bucket_segments, void* /*stream*/) override {
    segments_.assign(segments.begin(), segments.end());
    buckets_.assign(bucket_segments.begin(), bucket_segments.end());
    source_ = source;
    source_.dram.segments = segments_.empty() ? nullptr : segments_.data();
    source_.dram.bucket_segments = buckets_.empty() ? nullptr : buckets_.data();
    return {};
  }

  Status Enqueue(const uint32_t* ids, uint32_t count, std::byte* out, void* /*stream*/) override {
    if (Status status = CheckEnqueue(options_, ids, count, out); !status.ok()) return status;
    gather_({.source = &source_,
             .ids = ids,
             .count = count,
             .output = options_.output,
             .out = out,
             .scratch = &scratch_,
             .report = &report_,
             .missing = missing_.data(),
             .samples = options_.sample_every == 0 ? nullptr : samples_.data(),
             .sample_every = options_.sample_every});
    return {};
  }

  Status Wait(void* /*stream*/) override { return {}; }
  const Report& report() const override { return report_; }
  std::span<const Miss> missing() const override { return {missing_.data(), report_.missing}; }
  std::span<const uint32_t> samples() const override { return {samples_.data(), report_.samples}; }

  Status Complete(std::span<const uint32_t> positions, std::span<const std::byte> rows,
                  std::byte* out, void* /*stream*/) override {
    const uint64_t out_bytes = OutputRowBytes(options_.row_bytes, options_.output);
    std::vector<uint64_t> words((options_.row_bytes + 7) / 8);
    for (size_t i = 0; i < positions.size(); ++i) {
      std::memcpy(words.data(), rows.data() + i * options_.row_bytes, options_.row_bytes);
      StoreRow(options_.row_bytes, options_.output,
               reinterpret_cast<const std::byte*>(words.data()), out + positions[i] * out_bytes);
    }
    return {};
  }

 private:
  const GathererOptions options_;
  void (*const gather_)(const GatherArgs&);
  Source source_;
  std::vector<const std::byte*> segments_;
  std::vector<uint16_t> buckets_;
  Scratch scratch_;
  Report report_;
  std::vector<Miss> missing_;
  std::vector<uint32_t> samples_;
};

class HostBuffer final : public DeviceBuffer {
 public:
  explicit HostBuffer(uint64_t bytes) : lines_((bytes + sizeof(Line) - 1) / sizeof(Line)) {}
  std::byte* data() const override {
    return const_cast<std::byte*>(reinterpret_cast<const std::byte*>(lines_.data()));
  }
  Status Upload(uint64_t offset, std::span<const std::byte> bytes) override {
    std::memcpy(data() + offset, bytes.data(), bytes.size());
    return {};
  }
  Status Download(uint64_t offset, std::span<std::byte> bytes) override {
    std::memcpy(bytes.data(), data() + offset, bytes.size());
    return {};
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

class HostStream final : public Stream {
 public:
  void* handle() const override { return nullptr; }
};

class Host final : public Backend {
 public:
  explicit Host(void (*gather)(const GatherArgs&)) : gather_(gather) {}

  std::string name() const override { return "host memory"; }
  uint64_t FreeBytes() const override {
    const long pages = sysconf(_SC_AVPHYS_PAGES);
    return pages < 0 ? 0 : static_cast<uint64_t>(pages) * kPageBytes;
  }
  uint64_t AllocationUnit() const override { return kPageBytes; }

  Status Allocate(uint64_t bytes, MemoryKind kind, std::unique_ptr<ArenaMemory>& out) override {
    if (kind != MemoryKind::kHost) {
      return {Code::kUnsupported, std::string("host memory is not ") + MemoryKindName(kind)};
    }
    if (bytes == 0 || bytes % kPageBytes != 0) {
      return {Code::kInvalid, std::to_string(bytes) + " bytes are not whole pages"};
    }
    auto arena = std::make_unique<HostArena>();
    Status status = arena->Make(bytes);
    if (status.ok()) out = std::move(arena);
    return status;
  }

  Status Import(const ArenaExport& arena, int fd, std::unique_ptr<MappedMemory>& out) override {
    if (arena.kind != MemoryKind::kHost) {
      return {Code::kInvalid,
              std::string("an arena in ") + MemoryKindName(arena.kind) + " needs a GPU"};
    }
    // A file that is shorter would end the process at the first read behind its end.
    const int seals = fcntl(fd, F_GET_SEALS);
    const off_t size = lseek(fd, 0, SEEK_END);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || size < 0 ||
        static_cast<uint64_t>(size) != arena.bytes) {
      return {Code::kInvalid, "the arena's file has " + std::to_string(size) + " bytes, not " +
                                  std::to_string(arena.bytes) + ", or may shrink"};
    }
    void* const data = mmap(nullptr, arena.bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return {Code::kUnavailable, WithErrno("mapping the arena")};
    out = std::make_unique<Mapping>(static_cast<std::byte*>(data), arena.bytes, true);
    return {};
  }

  bool CanRegisterReadOnly() const override { return true; }
  Status Register(std::byte* memory, uint64_t bytes, bool /*read_only*/,
                  std::unique_ptr<MappedMemory>& out) override {
    out = std::make_unique<Mapping>(memory, bytes, false);
    return {};
  }
  Status MakeGatherer(const GathererOptions& options, std::unique_ptr<Gatherer>& out) override {
    if (Status status = CheckOptions(options); !status.ok()) return status;
    out = std::make_unique<HostGatherer>(options, gather_);
    return {};
  }
  Status MakeBuffer(uint64_t bytes, std::unique_ptr<DeviceBuffer>& out) override {
    out = std::make_unique<HostBuffer>(bytes);
    return {};
  }
  Status MakeStream(std::unique_ptr<Stream>& out) override {
    out = std::make_unique<HostStream>();
    return {};
  }

 private:
  void (*const gather_)(const GatherArgs&);
};

}  // namespace

std::unique_ptr<Backend> HostBackend(void (*gather)(const GatherArgs&)) {
  return std::make_unique<Host>(gather);
}

}  // namespace engram::gpu_cache
