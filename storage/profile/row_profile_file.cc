// The file of a RowProfile: PROFILE_FORMAT.md.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/table/addressing.h"
#include "storage/table/digest.h"
#include "storage/profile/row_profile.h"
#include "storage/profile/row_profile_format.h"

namespace engram {
namespace {

using profile_format::CheckFirstBytes;
using profile_format::CheckProfile;
using profile_format::kDigestLength;
using profile_format::kFingerprintLength;
using profile_format::kFirstBytes;
using profile_format::kMaxFamilyLength;
using profile_format::kMinBytes;
using profile_format::kTokenMapDigestLength;
using profile_format::OrdersOf;

// Numbers are stored as they lie in memory.
static_assert(std::endian::native == std::endian::little);

constexpr absl::string_view kMagic = "engrmhot";
constexpr uint32_t kFormat = 1;

bool IsHex(absl::string_view text, size_t length) {
  return text.size() == length && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isxdigit(c);
         });
}

absl::Status Bad(const LayerProfile& layer, absl::string_view what, const absl::AlphaNum& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("layer ", Raw(layer.id), " of the profile: ", what, " ", value));
}

absl::Status CheckColumns(const LayerProfile& layer) {
  if (layer.rows == 0 || layer.rows > kMaxLayerRows) {
    return Bad(layer, "impossible number of rows", layer.rows);
  }
  if (layer.columns.empty() || layer.columns.size() > kMaxColumns) {
    return Bad(layer, "impossible number of columns", layer.columns.size());
  }
  uint64_t sum = 0;
  for (const ProfiledColumn& column : layer.columns) {
    if (column.order < 1 || column.order > kMaxNgramSize) {
      return Bad(layer, "impossible order", column.order);
    }
    if (column.rows > layer.rows - sum) return Bad(layer, "columns of more rows than", layer.rows);
    sum += column.rows;
  }
  return absl::OkStatus();
}

absl::Status CheckOrder(const LayerProfile& layer, const OrderProfile& order) {
  uint64_t room = 0;
  for (const ProfiledColumn& column : layer.columns) {
    if (column.order == order.order) room += column.rows;
  }
  uint64_t above = kMaxRowCount + 1;
  for (const CountClass& each : order.classes) {
    if (each.count == 0 || each.count >= above) {
      return Bad(layer, "counts do not descend from 4294967295 to 1 at", each.count);
    }
    if (each.rows == 0 || each.rows > room) {
      return Bad(layer, "more rows, or none, asked for than there are:", each.rows);
    }
    above = each.count;
    room -= each.rows;
  }
  return absl::OkStatus();
}

// Bounded by the head's own size, whatever the layer's number of rows.
bool HasRepeats(const LayerProfile& layer) {
  if (layer.rows / 32 <= layer.head.size()) {
    std::vector<bool> seen(layer.rows);
    for (const HotRow& row : layer.head) {
      if (seen[Raw(row.id)]) return true;
      seen[Raw(row.id)] = true;
    }
    return false;
  }
  std::vector<RowId> ids;
  ids.reserve(layer.head.size());
  for (const HotRow& row : layer.head) ids.push_back(row.id);
  std::sort(ids.begin(), ids.end());
  return std::adjacent_find(ids.begin(), ids.end()) != ids.end();
}

absl::Status CheckHead(const LayerProfile& layer) {
  const std::vector<CountClass> classes = layer.Classes();
  if (layer.head.size() > DistinctRows(classes)) {
    return Bad(layer, "the head has more rows than were asked for:", layer.head.size());
  }
  size_t next = 0;
  for (const CountClass& each : classes) {
    const size_t end = next + std::min<uint64_t>(each.rows, layer.head.size() - next);
    for (size_t i = next; i < end; ++i) {
      const HotRow& row = layer.head[i];
      if (Raw(row.id) >= layer.rows) return Bad(layer, "it has no row", Raw(row.id));
      if (row.count != each.count)
        return Bad(layer, "the head's count is not the class's:", row.count);
      if (i > next && layer.head[i - 1].id >= row.id) {
        return Bad(layer, "rows of one count do not ascend at row", Raw(row.id));
      }
    }
    next = end;
  }
  if (HasRepeats(layer)) return Bad(layer, "a row stands twice in the head of", layer.head.size());
  return absl::OkStatus();
}

absl::Status CheckLayer(const LayerProfile& layer) {
  ENGRAM_RETURN_IF_ERROR(CheckColumns(layer));
  const std::vector<int32_t> orders = OrdersOf(layer.columns);
  if (layer.orders.size() != orders.size()) {
    return Bad(layer, "its columns have another number of orders than", layer.orders.size());
  }
  for (size_t i = 0; i < orders.size(); ++i) {
    if (layer.orders[i].order != orders[i]) {
      return Bad(layer, "its columns do not have, at its place, the order", layer.orders[i].order);
    }
    ENGRAM_RETURN_IF_ERROR(CheckOrder(layer, layer.orders[i]));
  }
  return CheckHead(layer);
}

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

// Takes numbers off the front of the file's bytes.
class Cursor {
 public:
  explicit Cursor(absl::string_view bytes) : rest_(bytes) {}

  template <typename T>
  T Take() {
    T value{};
    const absl::string_view bytes = TakeBytes(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  // Empty, and short() from then on, if there are not so many.
  absl::string_view TakeBytes(size_t count) {
    if (!Has(count, 1)) return {};
    const absl::string_view bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return bytes;
  }
  // Whether there is room for so many of a size; short() if not.
  bool Has(uint64_t count, uint64_t each) {
    short_ = short_ || count > rest_.size() / each;
    return !short_;
  }
  bool short_of_bytes() const { return short_; }
  bool done() const { return rest_.empty(); }

 private:
  absl::string_view rest_;
  bool short_ = false;
};

// Reads one more layer, as far as the bytes go; what it says is checked afterwards.
void TakeHead(Cursor& in, uint64_t rows, LayerProfile& layer) {
  if (!in.Has(rows, sizeof(uint32_t))) return;
  layer.head.reserve(rows);
  for (const CountClass& each : layer.Classes()) {
    for (uint64_t i = 0; i < each.rows && layer.head.size() < rows; ++i) {
      layer.head.push_back({RowId{in.Take<uint32_t>()}, static_cast<uint32_t>(each.count)});
    }
  }
  // Those that no class accounts for: CheckHead finds that they are too many.
  while (layer.head.size() < rows) layer.head.push_back({RowId{in.Take<uint32_t>()}, 0});
}

LayerProfile TakeLayer(Cursor& in) {
  LayerProfile layer;
  layer.id = LayerId{in.Take<int32_t>()};
  const auto columns = in.Take<uint32_t>();
  layer.rows = in.Take<uint64_t>();
  const auto head = in.Take<uint64_t>();
  if (!in.Has(columns, 12)) return layer;
  layer.columns.resize(columns);
  for (ProfiledColumn& column : layer.columns) {
    column.order = in.Take<int32_t>();
    column.rows = in.Take<uint64_t>();
  }
  for (const int32_t order : OrdersOf(layer.columns)) {
    const auto classes = in.Take<uint32_t>();
    if (!in.Has(classes, 16)) return layer;
    OrderProfile& profile = layer.orders.emplace_back();
    profile.order = order;
    profile.classes.resize(classes);
    for (CountClass& each : profile.classes) {
      each.count = in.Take<uint64_t>();
      each.rows = in.Take<uint64_t>();
    }
  }
  TakeHead(in, head, layer);
  return layer;
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
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) return FromErrno("syncing directory", folder);
  return absl::OkStatus();
}

absl::Status WriteNew(const std::string& path, absl::string_view bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return FromErrno("making", path);
  return WriteAll(fd.get(), bytes, path);
}

// Of a file that may be anything: nothing is allocated before its first bytes make sense.
absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  // A FIFO would block otherwise.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return FromErrno("opening", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no regular file"));
  }
  std::string bytes;
  const auto read = [&](size_t end) -> absl::Status {
    size_t done = bytes.size();
    bytes.resize(end);
    while (done < end) {
      const ssize_t got =
          ::pread(fd.get(), bytes.data() + done, end - done, static_cast<off_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FromErrno("reading", path);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    bytes.resize(done);
    return absl::OkStatus();
  };
  const auto size = static_cast<uint64_t>(info.st_size);
  ENGRAM_RETURN_IF_ERROR(read(std::min<uint64_t>(size, kFirstBytes)));
  if (const absl::Status status = CheckFirstBytes(bytes, size); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  ENGRAM_RETURN_IF_ERROR(read(size));
  return bytes;
}

}  // namespace

namespace profile_format {

std::vector<int32_t> OrdersOf(const std::vector<ProfiledColumn>& columns) {
  std::set<int32_t> orders;
  for (const ProfiledColumn& column : columns) orders.insert(column.order);
  return {orders.begin(), orders.end()};
}

absl::Status CheckProfile(const RowProfile& profile) {
  if (profile.family.size() > kMaxFamilyLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile's family has ", profile.family.size(), " bytes"));
  }
  if (!IsHex(profile.fingerprint, kFingerprintLength)) {
    return absl::InvalidArgumentError(absl::StrCat("the profile's fingerprint is \"",
                                                   absl::CHexEscape(profile.fingerprint), "\""));
  }
  if (!profile.token_map_digest.empty() &&
      !IsHex(profile.token_map_digest, kTokenMapDigestLength)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the profile's token map digest is \"", absl::CHexEscape(profile.token_map_digest), "\""));
  }
  if (profile.layers.empty() || profile.layers.size() > kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("the profile has ", profile.layers.size(), " layers"));
  }
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    const LayerProfile& layer = profile.layers[i];
    if (i > 0 && profile.layers[i - 1].id >= layer.id) {
      return Bad(layer, "it follows layer", Raw(profile.layers[i - 1].id));
    }
    ENGRAM_RETURN_IF_ERROR(CheckLayer(layer));
  }
  return absl::OkStatus();
}

absl::Status CheckFirstBytes(absl::string_view bytes, uint64_t file_bytes) {
  if (bytes.size() < kFirstBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::DataLossError("no profile of row frequencies (engramctl profile makes them)");
  }
  Cursor in(bytes.substr(kMagic.size()));
  if (const auto format = in.Take<uint32_t>(); format != kFormat) {
    return absl::FailedPreconditionError(absl::StrCat("a profile of format ", format,
                                                      ", where this release knows ", kFormat,
                                                      "; make it anew with engramctl profile"));
  }
  in.Take<uint32_t>();
  if (const auto said = in.Take<uint64_t>(); said != file_bytes || said > kMaxProfileBytes) {
    return absl::DataLossError(absl::StrCat("a profile of ", said, " bytes (at most ",
                                            kMaxProfileBytes, " are possible), of which there are ",
                                            file_bytes, ": it is damaged or cut off"));
  }
  return absl::OkStatus();
}

}  // namespace profile_format

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

absl::StatusOr<RowProfile> RowProfile::Parse(absl::string_view bytes) {
  ENGRAM_RETURN_IF_ERROR(CheckFirstBytes(bytes, bytes.size()));
  if (bytes.size() < kMinBytes + kDigestLength) {
    return absl::DataLossError(absl::StrCat("a profile of only ", bytes.size(), " bytes"));
  }
  const absl::string_view body = bytes.substr(0, bytes.size() - kDigestLength);
  Digest digest;
  digest.Update(body);
  if (digest.Hex() != bytes.substr(body.size())) {
    return absl::DataLossError("a damaged profile: its digest is not that of its bytes");
  }
  RowProfile profile;
  Cursor in(body.substr(kMagic.size() + sizeof kFormat));
  const auto layers = in.Take<uint32_t>();
  in.Take<uint64_t>();  // the size, which is right
  profile.tokens = in.Take<uint64_t>();
  profile.sequences = in.Take<uint64_t>();
  profile.fingerprint = std::string(in.TakeBytes(kFingerprintLength));
  profile.token_map_digest = std::string(in.TakeBytes(kTokenMapDigestLength));
  if (profile.token_map_digest == std::string(kTokenMapDigestLength, '\0')) {
    profile.token_map_digest.clear();
  }
  profile.family = std::string(in.TakeBytes(in.Take<uint32_t>()));
  for (uint32_t i = 0; i < layers && layers <= kMaxLayers && !in.short_of_bytes(); ++i) {
    profile.layers.push_back(TakeLayer(in));
  }
  if (layers > kMaxLayers || in.short_of_bytes() || !in.done()) {
    return absl::DataLossError("a profile whose parts do not add up to its size");
  }
  if (const absl::Status status = CheckProfile(profile); !status.ok()) {
    return absl::DataLossError(absl::StrCat("an impossible profile: ", status.message()));
  }
  return profile;
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

absl::StatusOr<RowProfile> RowProfile::Read(const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(path));
  auto profile = Parse(bytes);
  if (profile.ok()) return profile;
  return absl::Status(profile.status().code(),
                      absl::StrCat(path, ": ", profile.status().message()));
}

}  // namespace engram
