#include "server/placement/hotness_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "storage/base/log.h"
#include "storage/base/size.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/dram/hotness.h"
#include "storage/profile/hot_reader.h"

namespace engram {
namespace {

namespace fs = std::filesystem;

static_assert(kMaxLiveCount == dram::kMaxCount);

constexpr absl::string_view kNew = ".new";
constexpr size_t kFingerprintLength = 32;
// What advice never takes from the tables: the store begins nothing with less than a quarter of it.
constexpr uint64_t kLeftToTables = uint64_t{256} << 20;

absl::string_view EndingOf(HotnessFiles::Kind kind) {
  return kind == HotnessFiles::Kind::kLive ? ".live" : ".profile";
}

// What becomes of a file that cannot be used.
absl::string_view RemedyOf(HotnessFiles::Kind kind) {
  return kind == HotnessFiles::Kind::kLive ? "; it is left out, and learned anew"
                                           : "; it is left out until the profile is loaded again";
}

absl::Status FromErrno(const char* doing, const std::string& path) {
  const std::string text = absl::StrCat(doing, " ", path, ": ", std::strerror(errno));
  if (errno == ENOENT) return absl::NotFoundError(text);
  if (errno == ENOSPC || errno == EDQUOT) return absl::ResourceExhaustedError(text);
  return absl::UnavailableError(text);
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

absl::Status CheckRoom(const std::string& directory, uint64_t bytes) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0) return FromErrno("asking for room in", directory);
  const uint64_t free = uint64_t{info.f_bavail} * info.f_frsize;
  if (free >= bytes + kLeftToTables) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("only ", FormatSize(free), " are free in ", directory, " for ",
                   FormatSize(bytes), ", of which tables keep ", FormatSize(kLeftToTables)));
}

absl::Status WriteNew(const std::string& path, HotHeader header, const LayerProfile& outline,
                      const std::function<absl::Status(HotWriter&)>& fill) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
  if (!fd.valid()) return FromErrno("making", path);
  HotWriter writer(std::move(header),
                   [&](absl::string_view bytes) { return WriteAll(fd.get(), bytes, path); });
  ENGRAM_RETURN_IF_ERROR(writer.BeginLayer(outline));
  ENGRAM_RETURN_IF_ERROR(fill(writer));
  ENGRAM_RETURN_IF_ERROR(writer.Finish());
  return ::fsync(fd.get()) == 0 ? absl::OkStatus() : FromErrno("syncing", path);
}

absl::Status Sync(const std::string& directory) {
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) return FromErrno("syncing directory", directory);
  return absl::OkStatus();
}

std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  return names;
}

// The fingerprint that a file's name holds, if it is one of this table's; else empty. Names of
// tables have dots too, so `a` must not take `a.b` for its own.
std::string FingerprintIn(absl::string_view name, absl::string_view table) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  if (parts.size() < 4 || !absl::StartsWith(name, absl::StrCat(table, "."))) return "";
  const absl::string_view ending = parts.back();
  const absl::string_view layer = parts[parts.size() - 2];
  const absl::string_view fingerprint = parts[parts.size() - 3];
  int32_t number = 0;
  const bool ours =
      name.size() == table.size() + 1 + fingerprint.size() + 1 + layer.size() + 1 + ending.size() &&
      fingerprint.size() == kFingerprintLength && absl::SimpleAtoi(layer, &number) &&
      (ending == "live" || ending == "profile");
  return ours ? std::string(fingerprint) : "";
}

void Remove(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return;
  ENGRAM_LOG(kWarning) << FromErrno("removing", path).message();
}

}  // namespace

std::string HotnessFiles::PathOf(const Key& key, Kind kind) const {
  return absl::StrCat(directory_, "/", key.table, ".", key.fingerprint, ".", Raw(key.layer),
                      EndingOf(kind));
}

void HotnessFiles::CleanUp(bool keep_live) const {
  for (const std::string& name : NamesIn(directory_)) {
    const bool live = absl::EndsWith(name, EndingOf(Kind::kLive));
    if (absl::EndsWith(name, kNew) || (live && !keep_live)) {
      Remove(absl::StrCat(directory_, "/", name));
    }
  }
}

absl::Status HotnessFiles::Write(const Key& key, Kind kind, LayerProfile outline, uint64_t bytes,
                                 const std::function<absl::Status(HotWriter&)>& fill) const {
  if (::mkdir(directory_.c_str(), 0750) != 0 && errno != EEXIST) {
    return FromErrno("making", directory_);
  }
  ENGRAM_RETURN_IF_ERROR(CheckRoom(directory_, bytes));
  const std::string path = PathOf(key, kind);
  const std::string unfinished = absl::StrCat(path, kNew);
  outline.id = key.layer;
  absl::Status status = WriteNew(unfinished,
                                 {.kind = kind,
                                  .layers = 1,
                                  .fingerprint = key.fingerprint,
                                  .token_map_digest = {},
                                  .family = {},
                                  .table = key.table},
                                 outline, fill);
  if (status.ok() && ::rename(unfinished.c_str(), path.c_str()) != 0) {
    status = FromErrno("renaming to", path);
  }
  if (!status.ok()) {
    Remove(unfinished);
    return status;
  }
  return Sync(directory_);
}

absl::Status HotnessFiles::Read(const Key& key, Kind kind, uint64_t rows,
                                const std::atomic<bool>& stop, const HotRunVisitor& visit) const {
  const std::string path = PathOf(key, kind);
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno("opening", path);
  const HotReader::Source source = [&](absl::Span<char> out) -> absl::StatusOr<size_t> {
    if (stop) return absl::CancelledError("the daemon is shutting down");
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = ::read(fd.get(), out.data() + done, out.size() - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FromErrno("reading", path);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  };
  const absl::Status status =
      ReadHotLayer({kind, key.table, key.fingerprint, key.layer, rows}, source, visit);
  if (status.ok() || absl::IsCancelled(status) || absl::IsUnavailable(status)) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message(), RemedyOf(kind)));
}

void HotnessFiles::KeepOnly(absl::string_view table,
                            const std::set<std::string>& fingerprints) const {
  for (const std::string& name : NamesIn(directory_)) {
    const std::string fingerprint = FingerprintIn(name, table);
    if (fingerprint.empty() || fingerprints.contains(fingerprint)) continue;
    Remove(absl::StrCat(directory_, "/", name));
  }
}

}  // namespace engram
