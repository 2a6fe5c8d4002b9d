#include "tests/bench/uring_reads.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;
constexpr uint64_t kDirectBlock = 4096;

absl::Status Failed(const std::string& what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
}

class Ring {
 public:
  Ring() = default;
  ~Ring() {
    if (open_) ::io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  absl::Status Init(int entries) {
    const int result = ::io_uring_queue_init(static_cast<unsigned>(entries), &ring_, 0);
    if (result < 0) return Failed("io_uring_queue_init", -result);
    open_ = true;
    return absl::OkStatus();
  }
  io_uring* get() { return &ring_; }

 private:
  io_uring ring_{};
  bool open_ = false;
};

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

Buffer Aligned(size_t bytes) {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(kDirectBlock, bytes)));
}

absl::StatusOr<UniqueFd> OpenDirect(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, 0600));
  if (fd.valid()) return fd;
  const int error = errno;
  if (error != EINVAL) return Failed(absl::StrCat("open ", path), error);
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": the file system refuses direct I/O, so there is no baseline: name another --dir"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RandomReader>> RandomReader::Open(
    const std::vector<std::string>& files) {
  std::unique_ptr<RandomReader> reader(new RandomReader);
  for (const std::string& path : files) {
    ENGRAM_ASSIGN_OR_RETURN(UniqueFd fd, OpenDirect(path, O_RDONLY));
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) return Failed(absl::StrCat("fstat ", path), errno);
    const uint64_t pages = static_cast<uint64_t>(info.st_size) / kReadBytes;
    if (pages == 0) continue;
    reader->files_.push_back({path, std::move(fd), reader->pages_});
    reader->pages_ += pages;
  }
  if (reader->pages_ == 0) return absl::FailedPreconditionError("there is nothing to read");
  return reader;
}

const RandomReader::File& RandomReader::FileOf(uint64_t page) const {
  const auto after =
      std::upper_bound(files_.begin(), files_.end(), page,
                       [](uint64_t value, const File& file) { return value < file.first_page; });
  return *std::prev(after);
}

absl::Status RandomReader::ReadFor(int depth, double seconds, uint64_t seed,
                                   uint64_t* reads) const {
  const Buffer buffer = Aligned(static_cast<size_t>(depth) * kReadBytes);
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory for read buffers");
  Ring ring;  // goes before the buffer that its reads write into
  ENGRAM_RETURN_IF_ERROR(ring.Init(depth));
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<uint64_t> any_page(0, pages_ - 1);
  const auto queue = [&](uint64_t slot) {
    const uint64_t page = any_page(random);
    const File& file = FileOf(page);
    io_uring_sqe* sqe = ::io_uring_get_sqe(ring.get());
    ::io_uring_prep_read(sqe, file.fd.get(), buffer.get() + slot * kReadBytes, kReadBytes,
                         (page - file.first_page) * kReadBytes);
    ::io_uring_sqe_set_data64(sqe, slot);
  };
  for (int slot = 0; slot < depth; ++slot) queue(static_cast<uint64_t>(slot));
  const Clock::time_point start = Clock::now();
  // Every read that is started is waited for: the kernel writes into our buffer.
  absl::Status status;
  bool more = true;
  for (int in_flight = depth; in_flight > 0;) {
    const int submitted = ::io_uring_submit_and_wait(ring.get(), 1);
    if (submitted < 0 && submitted != -EINTR) return Failed("io_uring_submit", -submitted);
    more = more && status.ok() && !Interrupted() && SecondsSince(start) < seconds;
    io_uring_cqe* completion = nullptr;
    while (::io_uring_peek_cqe(ring.get(), &completion) == 0) {
      const uint64_t slot = completion->user_data;
      const int result = completion->res;
      ::io_uring_cqe_seen(ring.get(), completion);
      --in_flight;
      if (result != static_cast<int>(kReadBytes)) {
        status = Failed("random read", result < 0 ? -result : EIO);
        more = false;
      }
      ++*reads;
      if (!more) continue;
      queue(slot);
      ++in_flight;
    }
  }
  return status;
}

absl::StatusOr<RandomReader::Outcome> RandomReader::Run(int depth, int threads, double seconds,
                                                        uint64_t seed) const {
  std::vector<absl::Status> statuses(static_cast<size_t>(threads));
  std::vector<uint64_t> reads(static_cast<size_t>(threads));
  std::vector<std::thread> workers;
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < statuses.size(); ++i) {
    workers.emplace_back(
        [&, i] { statuses[i] = ReadFor(depth / threads, seconds, seed + i, &reads[i]); });
  }
  for (std::thread& worker : workers) worker.join();
  Outcome outcome{.reads = 0, .seconds = SecondsSince(start)};
  for (size_t i = 0; i < statuses.size(); ++i) {
    ENGRAM_RETURN_IF_ERROR(statuses[i]);
    outcome.reads += reads[i];
  }
  ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
  return outcome;
}

namespace {

// Blocks of all files, in order, through one ring: each slot reads a block, then writes it.
class Copier {
 public:
  Copier(const std::vector<std::string>& files, std::string directory, int depth)
      : paths_(files), directory_(std::move(directory)), slots_(static_cast<size_t>(depth)) {}

  absl::Status Run() {
    for (const std::string& path : paths_) ENGRAM_RETURN_IF_ERROR(OpenPair(path));
    ENGRAM_RETURN_IF_ERROR(ring_.Init(static_cast<int>(slots_.size())));
    for (Slot& slot : slots_) {
      slot.buffer = Aligned(kCopyBytes);
      if (slot.buffer == nullptr) return absl::ResourceExhaustedError("no memory for copying");
    }
    ENGRAM_RETURN_IF_ERROR(CopyAll());
    for (const Pair& pair : pairs_) {
      // The last block was written whole.
      if (::ftruncate(pair.to.get(), static_cast<off_t>(pair.bytes)) != 0 ||
          ::fsync(pair.to.get()) != 0) {
        return Failed("ftruncate or fsync of the copy", errno);
      }
    }
    const UniqueFd folder(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.valid() || ::fsync(folder.get()) != 0) {
      return Failed(absl::StrCat("fsync ", directory_), errno);
    }
    return absl::OkStatus();
  }

 private:
  struct Pair {
    UniqueFd from;
    UniqueFd to;
    uint64_t bytes = 0;
  };
  struct Slot {
    Buffer buffer;
    size_t pair = 0;
    uint64_t offset = 0;
    bool writing = false;
  };

  absl::Status OpenPair(const std::string& path) {
    const std::string target =
        absl::StrCat(directory_, "/", std::filesystem::path(path).filename().string());
    Pair pair;
    ENGRAM_ASSIGN_OR_RETURN(pair.from, OpenDirect(path, O_RDONLY));
    ENGRAM_ASSIGN_OR_RETURN(pair.to, OpenDirect(target, O_WRONLY | O_CREAT | O_EXCL));
    struct stat info {};
    if (::fstat(pair.from.get(), &info) != 0) return Failed(absl::StrCat("fstat ", path), errno);
    pair.bytes = static_cast<uint64_t>(info.st_size);
    // Space is taken at once, as a careful copier does.
    if (pair.bytes > 0 && ::fallocate(pair.to.get(), 0, 0, info.st_size) != 0 &&
        errno != EOPNOTSUPP) {
      return Failed(absl::StrCat("fallocate ", target), errno);
    }
    pairs_.push_back(std::move(pair));
    return absl::OkStatus();
  }

  // The bytes of the slot's block as direct I/O counts them.
  uint32_t BlockBytes(const Slot& slot) const {
    const uint64_t left = pairs_[slot.pair].bytes - slot.offset;
    const uint64_t bytes = std::min<uint64_t>(left, kCopyBytes);
    return static_cast<uint32_t>((bytes + kDirectBlock - 1) / kDirectBlock * kDirectBlock);
  }

  // False when there are no more blocks.
  bool Take(Slot& slot) {
    while (next_pair_ < pairs_.size() && next_offset_ >= pairs_[next_pair_].bytes) {
      ++next_pair_;
      next_offset_ = 0;
    }
    if (next_pair_ == pairs_.size()) return false;
    slot.pair = next_pair_;
    slot.offset = next_offset_;
    slot.writing = false;
    next_offset_ += kCopyBytes;
    return true;
  }

  void Queue(Slot& slot) {
    io_uring_sqe* sqe = ::io_uring_get_sqe(ring_.get());
    if (slot.writing) {
      ::io_uring_prep_write(sqe, pairs_[slot.pair].to.get(), slot.buffer.get(), BlockBytes(slot),
                            slot.offset);
    } else {
      ::io_uring_prep_read(sqe, pairs_[slot.pair].from.get(), slot.buffer.get(), BlockBytes(slot),
                           slot.offset);
    }
    ::io_uring_sqe_set_data(sqe, &slot);
  }

  absl::Status CheckResult(const Slot& slot, int result) const {
    if (result < 0) return Failed("copying", -result);
    // The last block of a file is read up to its end and written whole.
    const uint64_t in_file = std::min<uint64_t>(pairs_[slot.pair].bytes - slot.offset, kCopyBytes);
    const uint64_t wanted = slot.writing ? BlockBytes(slot) : in_file;
    return static_cast<uint64_t>(result) >= wanted ? absl::OkStatus()
                                                   : Failed("copying: short transfer", EIO);
  }

  absl::Status CopyAll() {
    size_t in_flight = 0;
    for (Slot& slot : slots_) {
      if (!Take(slot)) break;
      Queue(slot);
      ++in_flight;
    }
    absl::Status status;
    while (in_flight > 0) {
      const int submitted = ::io_uring_submit_and_wait(ring_.get(), 1);
      if (submitted < 0 && submitted != -EINTR) return Failed("io_uring_submit", -submitted);
      status.Update(CheckInterrupt());
      io_uring_cqe* completion = nullptr;
      while (::io_uring_peek_cqe(ring_.get(), &completion) == 0) {
        Slot& slot = *static_cast<Slot*>(::io_uring_cqe_get_data(completion));
        status.Update(CheckResult(slot, completion->res));
        ::io_uring_cqe_seen(ring_.get(), completion);
        --in_flight;
        if (!status.ok()) continue;
        if (!slot.writing) {
          slot.writing = true;
        } else if (!Take(slot)) {
          continue;
        }
        Queue(slot);
        ++in_flight;
      }
    }
    return status;
  }

  const std::vector<std::string> paths_;
  const std::string directory_;
  std::vector<Pair> pairs_;
  size_t next_pair_ = 0;
  uint64_t next_offset_ = 0;
  std::vector<Slot> slots_;
  Ring ring_;  // last: goes first, before the buffers
};

}  // namespace

absl::Status CopyFiles(const std::vector<std::string>& files, const std::string& directory,
                       int depth) {
  return Copier(files, directory, depth).Run();
}

absl::StatusOr<DeviceReads> ReadDeviceCounters(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return Failed(absl::StrCat("stat ", path), errno);
  const std::string file =
      absl::StrCat("/sys/dev/block/", major(info.st_dev), ":", minor(info.st_dev), "/stat");
  // Kernel documentation, block/stat: reads, merged, sectors, milliseconds of the reads, …
  std::ifstream in(file);
  uint64_t reads = 0;
  uint64_t merged = 0;
  uint64_t sectors = 0;
  uint64_t ticks_ms = 0;
  if (!(in >> reads >> merged >> sectors >> ticks_ms)) {
    return absl::NotFoundError(absl::StrCat("no block device counters for ", path));
  }
  return DeviceReads{reads, static_cast<double>(ticks_ms) / 1000.0};
}

}  // namespace engram::bench
