#include "storage/profile/token_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/table/ngram_hasher.h"

namespace engram {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr auto kDeadPosition = static_cast<uint32_t>(NgramHasher::kDeadPosition);
constexpr size_t kIdBytes = sizeof(uint32_t);

absl::Status FromErrno(const char* doing, const std::string& path) {
  const std::string text = absl::StrCat(doing, " ", path, ": ", std::strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

int64_t ChangedNs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

absl::Status Changed(const std::string& path) {
  return absl::DataLossError(absl::StrCat(path, " was changed while it was read"));
}

// Reads up to `count` ids from id `begin` on; fewer only at the end of the file.
absl::StatusOr<size_t> ReadIds(int fd, const std::string& path, uint64_t begin, size_t count,
                               uint32_t* out) {
  size_t done = 0;
  while (done < count * kIdBytes) {
    const ssize_t got = ::pread(fd, reinterpret_cast<char*>(out) + done, count * kIdBytes - done,
                                static_cast<off_t>(begin * kIdBytes + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FromErrno("reading", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done / kIdBytes;
}

absl::Status NoSuchToken(const std::string& path, uint64_t index, uint32_t id, uint32_t limit) {
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": token id ", id, " at byte ", index * kIdBytes, " (token ", index,
      ") is not one of this model's: 0 to ", limit - 1, ", or 4294967295 for a dead position"));
}

}  // namespace

absl::StatusOr<TokenFiles> TokenFiles::Open(const std::vector<std::string>& paths) {
  TokenFiles opened;
  for (const std::string& path : paths) {
    File& file = opened.files_.emplace_back();
    file.path = path;
    // A FIFO would block otherwise.
    file.fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    struct stat info {};
    if (!file.fd.valid() || ::fstat(file.fd.get(), &info) != 0) return FromErrno("opening", path);
    if (!S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is no regular file; token files are read more than once, so pipes cannot be"));
    }
    const auto size = static_cast<uint64_t>(info.st_size);
    if (size == 0 || size % kIdBytes != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " has ", size, " bytes; a token file has 4 for each of its token ids",
                       size == 0 ? "" : ", so it is cut off, or something else"));
    }
    file.ids = size / kIdBytes;
    file.changed_ns = ChangedNs(info);
  }
  return opened;
}

uint64_t TokenFiles::ids() const {
  uint64_t sum = 0;
  for (const File& file : files_) sum += file.ids;
  return sum;
}

absl::Status TokenFiles::ReadFile(const File& file, const TokenCheck& check, size_t lookback,
                                  Block each) {
  std::vector<uint32_t> raw(kBlockIds);
  std::vector<int32_t> ids(lookback + kBlockIds);
  size_t context = 0;
  for (uint64_t begin = 0; begin < file.ids;) {
    const auto want = static_cast<size_t>(std::min<uint64_t>(kBlockIds, file.ids - begin));
    ENGRAM_ASSIGN_OR_RETURN(const size_t got,
                            ReadIds(file.fd.get(), file.path, begin, want, raw.data()));
    if (got < want) return Changed(file.path);
    for (size_t i = 0; i < got; ++i) {
      const uint32_t id = raw[i];
      if (id >= check.limit && id != kDeadPosition) {
        return NoSuchToken(file.path, begin + i, id, check.limit);
      }
      ids[context + i] =
          id == kDeadPosition || check.map.empty() ? static_cast<int32_t>(id) : check.map[id];
    }
    ENGRAM_RETURN_IF_ERROR(each(absl::MakeConstSpan(ids).first(context + got), context));
    const size_t kept = std::min(lookback, context + got);
    std::copy_n(ids.begin() + static_cast<ptrdiff_t>(context + got - kept), kept, ids.begin());
    context = kept;
    begin += got;
  }
  struct stat info {};
  if (::fstat(file.fd.get(), &info) != 0) return FromErrno("looking at", file.path);
  if (ChangedNs(info) != file.changed_ns) return Changed(file.path);
  return absl::OkStatus();
}

absl::Status TokenFiles::Read(const TokenCheck& check, size_t lookback, Block each) const {
  for (const File& file : files_) {
    ENGRAM_RETURN_IF_ERROR(ReadFile(file, check, lookback, each));
  }
  return absl::OkStatus();
}

}  // namespace engram
