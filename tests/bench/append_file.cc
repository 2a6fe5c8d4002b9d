#include "tests/bench/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"

namespace engram::bench {
namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;

}  // namespace

absl::Status AppendFile::Open(const std::string& path) {
  path_ = path;
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  fd_ = UniqueFd(::open(path.c_str(), kFlags | O_DIRECT, 0600));
  if (!fd_.valid() && errno == EINVAL) fd_ = UniqueFd(::open(path.c_str(), kFlags, 0600));
  if (!fd_.valid()) return Failed("open");
  buffer_ = MakeAlignedBuffer(kBufferBytes);
  return buffer_ == nullptr ? absl::ResourceExhaustedError("no memory for a write buffer")
                            : absl::OkStatus();
}

absl::Status AppendFile::Append(const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const size_t part = std::min(bytes, kBufferBytes - used_);
    std::memcpy(buffer_.get() + used_, from, part);
    used_ += part;
    from += part;
    bytes -= part;
    if (used_ == kBufferBytes) ENGRAM_RETURN_IF_ERROR(Flush());
  }
  return absl::OkStatus();
}

absl::Status AppendFile::Close() {
  const uint64_t size = written_ + used_;
  // The last block is written whole, then cut to size.
  const size_t padded = (used_ + kDirectBlock - 1) / kDirectBlock * kDirectBlock;
  std::memset(buffer_.get() + used_, 0, padded - used_);
  used_ = padded;
  ENGRAM_RETURN_IF_ERROR(Flush());
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Failed("ftruncate");
  return ::fsync(fd_.get()) == 0 ? absl::OkStatus() : Failed("fsync");
}

absl::Status AppendFile::Failed(const char* call) const {
  return absl::UnavailableError(absl::StrCat(call, " ", path_, ": ", std::strerror(errno)));
}

absl::Status AppendFile::Flush() {
  ENGRAM_RETURN_IF_ERROR(CheckInterrupt());
  for (size_t done = 0; done < used_;) {
    const ssize_t count = ::pwrite(fd_.get(), buffer_.get() + done, used_ - done,
                                   static_cast<off_t>(written_ + done));
    if (count <= 0) return Failed("pwrite");
    done += static_cast<size_t>(count);
  }
  written_ += used_;
  used_ = 0;
  return absl::OkStatus();
}

}  // namespace engram::bench
