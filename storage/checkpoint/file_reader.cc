#include "storage/checkpoint/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/log.h"
#include "storage/base/status_macros.h"

namespace engram {
namespace {

constexpr uint64_t kAlignment = AlignedBuffer::kAlignment;

uint64_t AlignDown(uint64_t value) { return value / kAlignment * kAlignment; }
uint64_t AlignUp(uint64_t value) { return AlignDown(value + kAlignment - 1); }

absl::Status OpenError(int error, const std::string& path) {
  const std::string text(
      absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot be opened")).message());
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

int64_t ModifiedNs(const struct stat& info) {
  return static_cast<int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

std::byte* AlignedBuffer::Reserve(size_t bytes) {
  if (bytes > capacity_) {
    capacity_ = 0;
    data_.reset();
    data_ = AllocateDirect(bytes);
    capacity_ = RoundUpDirect(bytes);
  }
  return data_.get();
}

FileReader::FileReader(std::string path, Options options, bool rings)
    : path_(std::move(path)), options_(std::move(options)), rings_(rings) {}

absl::Status FileReader::Failed(int error, uint64_t offset) const {
  return absl::UnavailableError(
      absl::ErrnoToStatus(error, absl::StrCat(path_, ": reading at byte ", offset, " failed"))
          .message());
}

bool FileReader::RefusesDirect(int error) { return error == EINVAL || error == EOPNOTSUPP; }

absl::Status FileReader::CheckUnchanged() const {
  struct stat info {};
  if (::fstat(buffered_fd_.get(), &info) != 0) return OpenError(errno, path_);
  if (static_cast<uint64_t>(info.st_size) == bytes_ && ModifiedNs(info) == mtime_ns_) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(path_, ": has been written to since it was opened; what was read of it may be ",
                   "partly old and partly new"));
}

absl::StatusOr<std::unique_ptr<FileReader>> FileReader::Open(const std::string& path) {
  return Open(path, Options{});
}

absl::StatusOr<std::unique_ptr<FileReader>> FileReader::Open(const std::string& path,
                                                             Options options) {
  const bool rings = !options.pread;
  if (!options.pread) options.pread = ::pread;
  std::unique_ptr<FileReader> reader(new FileReader(path, std::move(options), rings));
  ENGRAM_RETURN_IF_ERROR(reader->OpenBuffered());
  if (reader->options_.direct) ENGRAM_RETURN_IF_ERROR(reader->OpenDirect());
  return reader;
}

absl::Status FileReader::OpenBuffered() {
  // O_NONBLOCK: without it, opening a pipe would wait for a writer before we could refuse it.
  buffered_fd_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!buffered_fd_.valid()) return OpenError(errno, path_);
  struct stat info {};
  if (::fstat(buffered_fd_.get(), &info) != 0) return OpenError(errno, path_);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": is not a regular file"));
  }
  bytes_ = static_cast<uint64_t>(info.st_size);
  mtime_ns_ = ModifiedNs(info);
  return absl::OkStatus();
}

absl::Status FileReader::OpenDirect() {
  UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT));
  if (!fd.valid()) return RefusesDirect(errno) ? absl::OkStatus() : OpenError(errno, path_);
  struct stat first {};
  struct stat second {};
  if (::fstat(buffered_fd_.get(), &first) != 0 || ::fstat(fd.get(), &second) != 0) {
    return OpenError(errno, path_);
  }
  if (first.st_dev != second.st_dev || first.st_ino != second.st_ino) {
    return absl::UnavailableError(
        absl::StrCat(path_, ": was replaced while it was being opened; try again"));
  }
  // Some file systems accept the flag and refuse the first read.
  AlignedBuffer buffer;
  std::byte* const data = buffer.Reserve(kAlignment);
  ssize_t got = 0;
  do {
    got = options_.pread(fd.get(), data, kAlignment, 0);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return RefusesDirect(errno) ? absl::OkStatus() : Failed(errno, 0);
  direct_fd_ = std::move(fd);
  direct_.store(true, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::StatusOr<absl::Span<const std::byte>> FileReader::Read(uint64_t offset, uint64_t length,
                                                             AlignedBuffer& buffer) const {
  if (length > bytes_ || offset > bytes_ - length) {
    return absl::OutOfRangeError(absl::StrCat(path_, ": ", length, " bytes at byte ", offset,
                                              " do not lie in a file of ", bytes_, " bytes"));
  }
  const uint64_t begin = AlignDown(offset);
  const size_t needed = offset + length - begin;
  const absl::Span<std::byte> data(buffer.Reserve(AlignUp(needed)), AlignUp(needed));
  size_t filled = 0;
  if (direct()) {
    ENGRAM_ASSIGN_OR_RETURN(filled, ReadDirect(begin, data, needed));
  }
  if (filled < needed) {
    ENGRAM_RETURN_IF_ERROR(ReadBuffered(begin + filled, data.subspan(filled, needed - filled)));
  }
  return data.subspan(offset - begin, length);
}

// Returns how many bytes it has read. Fewer than `needed` means that direct reads are refused, or
// that the file ends here: an ordinary read then settles it.
absl::StatusOr<size_t> FileReader::ReadDirect(uint64_t begin, absl::Span<std::byte> data,
                                              size_t needed) const {
  size_t filled = 0;
  while (filled < needed) {
    const ssize_t got = options_.pread(direct_fd_.get(), data.data() + filled, data.size() - filled,
                                       static_cast<off_t>(begin + filled));
    if (got < 0) {
      if (errno == EINTR) continue;
      if (!RefusesDirect(errno)) return Failed(errno, begin + filled);
      if (direct_.exchange(false, std::memory_order_relaxed)) {
        ENGRAM_LOG(kWarning) << path_ << ": direct I/O is refused; reading through the page cache";
      }
      return filled;
    }
    filled += static_cast<size_t>(got);
    // A count that is no multiple of the alignment cannot be carried on from directly.
    if (got == 0 || filled % kAlignment != 0) break;
  }
  return filled;
}

absl::Status FileReader::ReadBuffered(uint64_t begin, absl::Span<std::byte> data) const {
  size_t filled = 0;
  while (filled < data.size()) {
    const ssize_t got = options_.pread(buffered_fd_.get(), data.data() + filled,
                                       data.size() - filled, static_cast<off_t>(begin + filled));
    if (got < 0) {
      if (errno == EINTR) continue;
      return Failed(errno, begin + filled);
    }
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": ends at byte ", begin + filled,
                                              ", but had ", bytes_,
                                              " bytes when it was opened; it has been cut short"));
    }
    filled += static_cast<size_t>(got);
  }
  // Advice only: a refusal costs page cache, not correctness.
  ::posix_fadvise(buffered_fd_.get(), static_cast<off_t>(AlignDown(begin)),
                  static_cast<off_t>(AlignUp(begin + data.size()) - AlignDown(begin)),
                  POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t max_bytes) {
  FileReader::Options options;
  options.direct = false;
  ENGRAM_ASSIGN_OR_RETURN(const auto reader, FileReader::Open(path, std::move(options)));
  if (reader->bytes() > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is ", reader->bytes(),
                                                   " bytes long; at most ", max_bytes,
                                                   " are expected in such a file"));
  }
  AlignedBuffer buffer;
  ENGRAM_ASSIGN_OR_RETURN(const auto bytes, reader->Read(0, reader->bytes(), buffer));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace engram
