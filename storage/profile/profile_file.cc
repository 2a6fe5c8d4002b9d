#include "storage/profile/profile_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/profile/profile_format.h"

namespace engram {
namespace {

absl::Status InFile(const absl::Status& status, const std::string& path) {
  if (status.ok() || absl::IsUnavailable(status)) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::Status FromErrno(const char* doing, const std::string& path) {
  const std::string text = absl::StrCat(doing, " ", path, ": ", std::strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

}  // namespace

// The bytes from `offset` on, front to back.
HotReader::Source ProfileFile::From(uint64_t offset) const {
  return [source = source_, offset](absl::Span<char> out) mutable -> absl::StatusOr<size_t> {
    ENGRAM_ASSIGN_OR_RETURN(const size_t got, source(offset, out));
    offset += got;
    return got;
  };
}

absl::Status ProfileFile::ScanAll() {
  HotReader reader(From(0));
  ENGRAM_ASSIGN_OR_RETURN(const HotHeader header, reader.ReadHeader());
  if (header.kind != HotKind::kProfile || !header.table.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a ", HotKindName(header.kind), " file of table '", header.table,
                     "' from a daemon's data directory, where a profile of engramctl profile is "
                     "wanted"));
  }
  outline_.family = header.family;
  outline_.fingerprint = header.fingerprint;
  outline_.token_map_digest = header.token_map_digest;
  outline_.tokens = header.tokens;
  outline_.sequences = header.sequences;
  for (uint32_t i = 0; i < header.layers; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(LayerProfile layer, reader.ReadOutline());
    outline_.layers.push_back(std::move(layer));
    Head& head = heads_.emplace_back(Head{.begin = reader.place(), .rows = 0, .end_digest = {}});
    ENGRAM_RETURN_IF_ERROR(reader.ReadRows([&head](const HotRun& run) {
      head.rows += run.ids.size();
      return absl::OkStatus();
    }));
    head.end_digest = reader.place().digest;
  }
  return reader.ReadEnd();
}

absl::StatusOr<ProfileFile> ProfileFile::Scan(Source source) {
  ProfileFile file(std::move(source));
  ENGRAM_RETURN_IF_ERROR(file.ScanAll());
  return file;
}

absl::StatusOr<ProfileFile> ProfileFile::Open(const std::string& path) {
  // A FIFO would block otherwise.
  const auto fd =
      std::make_shared<UniqueFd>(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!fd->valid() || ::fstat(fd->get(), &info) != 0) return FromErrno("opening", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no regular file"));
  }
  const auto read = [fd, path](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = ::pread(fd->get(), out.data() + done, out.size() - done,
                                  static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FromErrno("reading", path);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  };
  auto file = Scan(read);
  if (!file.ok()) return InFile(file.status(), path);
  return file;
}

absl::Status ProfileFile::VisitHead(size_t layer,
                                    const std::function<absl::Status(const HotRow&)>& visit) const {
  const Head& head = heads_[layer];
  HotReader reader(From(head.begin.offset));
  reader.Resume(HotKind::kProfile, outline_.layers[layer], head.begin);
  ENGRAM_RETURN_IF_ERROR(reader.ReadRows([&visit](const HotRun& run) -> absl::Status {
    for (const RowId id : run.ids) ENGRAM_RETURN_IF_ERROR(visit({id, run.count}));
    return absl::OkStatus();
  }));
  if (reader.place().digest == head.end_digest) return absl::OkStatus();
  return absl::DataLossError("a profile that was changed since it was checked");
}

absl::StatusOr<RowProfile> ProfileFile::ReadAll() const {
  RowProfile profile = outline_;
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    LayerProfile& layer = profile.layers[i];
    layer.head.reserve(head_rows(i));
    ENGRAM_RETURN_IF_ERROR(VisitHead(i, [&](const HotRow& row) {
      layer.head.push_back(row);
      return absl::OkStatus();
    }));
    if (const absl::Status repeats = profile_format::CheckRepeats(layer); !repeats.ok()) {
      return absl::DataLossError(absl::StrCat("an impossible profile: ", repeats.message()));
    }
  }
  return profile;
}

absl::StatusOr<RowProfile> RowProfile::Parse(absl::string_view bytes) {
  const auto read = [bytes](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    const size_t from = std::min<uint64_t>(offset, bytes.size());
    return bytes.copy(out.data(), out.size(), from);
  };
  ENGRAM_ASSIGN_OR_RETURN(const ProfileFile file, ProfileFile::Scan(read));
  return file.ReadAll();
}

absl::StatusOr<RowProfile> RowProfile::Read(const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const ProfileFile file, ProfileFile::Open(path));
  auto profile = file.ReadAll();
  if (!profile.ok()) return InFile(profile.status(), path);
  return profile;
}

}  // namespace engram
