#include "tests/bench/uring_reads.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/direct_memory.h"
#include "storage/base/io_ring.h"
#include "storage/base/status_macros.h"
#include "tests/bench/bench_env.h"

namespace engram::bench {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;

absl::Status Failed(const std::string& what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<UniqueFd> OpenDirect(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, 0600));
  if (fd.valid()) return fd;
  const int error = errno;
  if (error != EINVAL) return Failed(absl::StrCat("open ", path), error);
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": the file system refuses direct I/O, so there is no baseline: name another --dir"));
}

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

// A ring and the buffers of its reads, one slot each. Reads are queued between the waits, not from
// within them, so that one system call hands in new reads and waits for old ones.
class RandomReader::Slots {
 public:
  Slots(const RandomReader& reader, int depth, uint64_t seed)
      : reader_(reader),
        buffer_(MakeAlignedBuffer(static_cast<size_t>(depth) * kReadBytes)),
        ring_(static_cast<unsigned>(depth)),
        random_(seed),
        any_page_(0, reader.pages_ - 1) {
    for (int slot = 0; slot < depth; ++slot) free_.push_back(static_cast<uint64_t>(slot));
    if (!ring_.status().ok()) status_ = ring_.status();
    if (buffer_ == nullptr) {
      status_ = absl::ResourceExhaustedError("no memory for read buffers");
    } else {
      // So that no read waits for its buffer's pages.
      std::memset(buffer_.get(), 0, static_cast<size_t>(depth) * kReadBytes);
    }
  }

  const absl::Status& status() const { return status_; }

  // Starts a read for each free slot.
  void Fill() {
    filling_.swap(free_);
    size_t queued = 0;
    for (const uint64_t slot : filling_) {
      const uint64_t page = any_page_(random_);
      const File& file = reader_.FileOf(page);
      ring_.Read(file.fd.get(), buffer_.get() + slot * kReadBytes, kReadBytes,
                 (page - file.first_page) * kReadBytes, slot);
      if (IsTimeToSend(++queued, ring_.in_flight())) {
        queued = 0;
        Wait(0);
      }
    }
    filling_.clear();
  }

  // Waits for `count` reads more, or for all.
  void Wait(unsigned count) {
    const absl::Status& ring = ring_.Wait(count, [this](uint64_t slot, int32_t result) {
      if (result != static_cast<int32_t>(kReadBytes)) {
        status_ = Failed("random read", result < 0 ? -result : EIO);
      }
      free_.push_back(slot);
      ++done_;
    });
    if (!ring.ok()) status_ = ring;
  }
  void WaitForAll() { Wait(ring_.in_flight()); }
  // Reads that have come so far.
  uint64_t done() const { return done_; }

 private:
  const RandomReader& reader_;
  const AlignedBuffer buffer_;
  IoRing ring_;  // goes before the buffer that its reads write into
  std::mt19937_64 random_;
  std::uniform_int_distribution<uint64_t> any_page_;
  std::vector<uint64_t> free_;
  std::vector<uint64_t> filling_;
  uint64_t done_ = 0;
  absl::Status status_;
};

absl::Status RandomReader::ReadFor(int depth, double seconds, uint64_t seed,
                                   uint64_t* reads) const {
  Slots slots(*this, depth, seed);
  const Clock::time_point start = Clock::now();
  while (slots.status().ok() && !Interrupted() && SecondsSince(start) < seconds) {
    slots.Fill();
    slots.Wait(1);
  }
  if (slots.status().ok()) slots.WaitForAll();
  *reads = slots.done();
  return slots.status();
}

absl::StatusOr<std::vector<double>> RandomReader::Bursts(int reads, int bursts,
                                                         uint64_t seed) const {
  Slots slots(*this, reads, seed);
  std::vector<double> micros;
  for (int i = 0; i < bursts && slots.status().ok(); ++i) {
    ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
    const Clock::time_point start = Clock::now();
    slots.Fill();
    slots.WaitForAll();
    micros.push_back(SecondsSince(start) * 1e6);
  }
  ENGRAM_RETURN_IF_ERROR(slots.status());
  return micros;
}

absl::StatusOr<RandomReader::Outcome> RandomReader::Run(int depth, int threads, double seconds,
                                                        uint64_t seed) const {
  std::vector<absl::Status> statuses(static_cast<size_t>(threads));
  std::vector<uint64_t> reads(static_cast<size_t>(threads));
  std::vector<std::thread> workers;
  const double cpu_before = OwnCpuSeconds();
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < statuses.size(); ++i) {
    workers.emplace_back(
        [&, i] { statuses[i] = ReadFor(depth / threads, seconds, seed + i, &reads[i]); });
  }
  for (std::thread& worker : workers) worker.join();
  Outcome outcome{.reads = 0, .seconds = SecondsSince(start), .cpu_seconds = 0};
  outcome.cpu_seconds = OwnCpuSeconds() - cpu_before;
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
      : paths_(files),
        directory_(std::move(directory)),
        slots_(static_cast<size_t>(depth)),
        memory_(AllocateDirect(slots_.size() * kCopyBytes)),
        ring_(static_cast<unsigned>(depth)) {}

  absl::Status Run() {
    for (const std::string& path : paths_) ENGRAM_RETURN_IF_ERROR(OpenPair(path));
    ENGRAM_RETURN_IF_ERROR(ring_.status());
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

  void Queue(size_t index) {
    Slot& slot = slots_[index];
    const Pair& pair = pairs_[slot.pair];
    std::byte* const block = memory_.get() + index * kCopyBytes;
    if (slot.writing) {
      ring_.Write(pair.to.get(), block, BlockBytes(slot), slot.offset, index);
    } else {
      ring_.Read(pair.from.get(), block, BlockBytes(slot), slot.offset, index);
    }
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
    std::vector<size_t> ready;  // slots whose next transfer is to be queued
    for (size_t i = 0; i < slots_.size() && Take(slots_[i]); ++i) ready.push_back(i);
    absl::Status status;
    while (true) {
      for (const size_t index : ready) Queue(index);
      ready.clear();
      if (ring_.in_flight() == 0) return status;
      status.Update(ring_.Wait(1, [&](uint64_t index, int32_t result) {
        Slot& slot = slots_[index];
        status.Update(CheckResult(slot, result));
        if (!status.ok()) return;
        const bool read = !slot.writing;
        if (read) slot.writing = true;
        if (read || Take(slot)) ready.push_back(index);
      }));
      status.Update(CheckInterrupt());
      if (!status.ok()) ready.clear();  // what is under way is waited for
    }
  }

  const std::vector<std::string> paths_;
  const std::string directory_;
  std::vector<Pair> pairs_;
  size_t next_pair_ = 0;
  uint64_t next_offset_ = 0;
  std::vector<Slot> slots_;
  const DirectMemory memory_;  // a block for each slot
  IoRing ring_;                // last: goes first, before the memory
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
