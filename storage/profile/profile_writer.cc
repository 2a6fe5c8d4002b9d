// A RowProfile into its file: FORMAT.md.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/profile/hot_writer.h"
#include "storage/profile/profile_format.h"
#include "storage/profile/row_profile.h"

namespace engram {
namespace {

// All of the profile, into a sink.
absl::Status WriteTo(const RowProfile& profile, HotWriter::Sink sink) {
  ENGRAM_RETURN_IF_ERROR(profile_format::CheckProfile(profile));
  HotWriter writer(profile_format::HeaderOf(profile), std::move(sink));
  for (const LayerProfile& layer : profile.layers) {
    ENGRAM_RETURN_IF_ERROR(writer.BeginLayer(layer));
    for (const HotRow& row : layer.head) ENGRAM_RETURN_IF_ERROR(writer.Add(row.id, row.count));
  }
  return writer.Finish();
}

absl::Status FromErrno(const char* doing, const std::string& path) {
  const std::string text = absl::StrCat(doing, " ", path, ": ", std::strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FromErrno("writing", path);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const std::string folder = parent.empty() ? "." : parent;
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) return FromErrno("syncing directory", folder);
  return absl::OkStatus();
}

absl::Status WriteNew(const std::string& path, const RowProfile& profile) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return FromErrno("making", path);
  ENGRAM_RETURN_IF_ERROR(
      WriteTo(profile, [&](absl::string_view bytes) { return WriteAll(fd.get(), bytes, path); }));
  return ::fsync(fd.get()) == 0 ? absl::OkStatus() : FromErrno("syncing", path);
}

}  // namespace

absl::StatusOr<std::string> RowProfile::Serialize() const {
  std::string out;
  ENGRAM_RETURN_IF_ERROR(WriteTo(*this, [&out](absl::string_view bytes) {
    absl::StrAppend(&out, bytes);
    return absl::OkStatus();
  }));
  return out;
}

absl::Status RowProfile::Write(const std::string& path) const {
  const std::string unfinished = absl::StrCat(path, ".new.", ::getpid());
  absl::Status status = WriteNew(unfinished, *this);
  if (status.ok() && ::rename(unfinished.c_str(), path.c_str()) != 0) {
    status = FromErrno("renaming to", path);
  }
  if (!status.ok()) {
    ::unlink(unfinished.c_str());
    return status;
  }
  return SyncFolderOf(path);
}

}  // namespace engram
