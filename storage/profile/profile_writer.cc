// A RowProfile into its file: FORMAT.md.
#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/profile/profile_format.h"
#include "storage/profile/row_profile.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

using profile_format::CheckProfile;
using profile_format::kDigestLength;
using profile_format::kFormat;
using profile_format::kMagic;
using profile_format::kMinBytes;
using profile_format::kTokenMapDigestLength;

// Numbers are stored as they lie in memory.
static_assert(std::endian::native == std::endian::little);

template <typename T>
void Put(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

uint64_t SizeOf(const RowProfile& profile) {
  uint64_t bytes = kMinBytes + profile.family.size() + kDigestLength;
  for (const LayerProfile& layer : profile.layers) {
    bytes += 24 + 12 * layer.columns.size() + 4 * layer.head.size();
    for (const OrderProfile& order : layer.orders) bytes += 4 + 16 * order.classes.size();
  }
  return bytes;
}

void PutLayer(std::string& out, const LayerProfile& layer) {
  Put(out, Raw(layer.id));
  Put(out, static_cast<uint32_t>(layer.columns.size()));
  Put(out, layer.rows);
  Put(out, uint64_t{layer.head.size()});
  for (const ProfiledColumn& column : layer.columns) {
    Put(out, column.order);
    Put(out, column.rows);
  }
  for (const OrderProfile& order : layer.orders) {
    Put(out, static_cast<uint32_t>(order.classes.size()));
    for (const CountClass& each : order.classes) {
      Put(out, each.count);
      Put(out, each.rows);
    }
  }
  for (const HotRow& row : layer.head) Put(out, Raw(row.id));
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
  return ::fsync(fd) == 0 ? absl::OkStatus() : FromErrno("syncing", path);
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const std::string folder = parent.empty() ? "." : parent;
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) return FromErrno("syncing directory", folder);
  return absl::OkStatus();
}

absl::Status WriteNew(const std::string& path, absl::string_view bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return FromErrno("making", path);
  return WriteAll(fd.get(), bytes, path);
}

}  // namespace

absl::StatusOr<std::string> RowProfile::Serialize() const {
  ENGRAM_RETURN_IF_ERROR(CheckProfile(*this));
  const uint64_t size = SizeOf(*this);
  if (size > kMaxProfileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a profile of ", size, " bytes is over ",
                                                   kMaxProfileBytes, "; take a smaller head"));
  }
  std::string out;
  out.reserve(size);
  out.append(kMagic.data(), kMagic.size());
  Put(out, kFormat);
  Put(out, static_cast<uint32_t>(layers.size()));
  Put(out, size);
  Put(out, tokens);
  Put(out, sequences);
  out += fingerprint;
  out += token_map_digest.empty() ? std::string(kTokenMapDigestLength, '\0') : token_map_digest;
  Put(out, static_cast<uint32_t>(family.size()));
  out += family;
  for (const LayerProfile& layer : layers) PutLayer(out, layer);
  Digest digest;
  digest.Update(out);
  out += digest.Hex();
  return out;
}

absl::Status RowProfile::Write(const std::string& path) const {
  ENGRAM_ASSIGN_OR_RETURN(const std::string bytes, Serialize());
  const std::string unfinished = absl::StrCat(path, ".new.", ::getpid());
  absl::Status status = WriteNew(unfinished, bytes);
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
