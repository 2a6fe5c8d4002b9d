#include "storage/profile/profile_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/base/unique_fd.h"
#include "storage/profile/profile_format.h"
#include "storage/table/addressing.h"
#include "storage/table/digest.h"

namespace engram {
namespace {

using profile_format::CheckFirstBytes;
using profile_format::CheckLayerOutline;
using profile_format::CheckOutline;
using profile_format::CheckRepeats;
using profile_format::kDigestLength;
using profile_format::kFingerprintLength;
using profile_format::kFirstBytes;
using profile_format::kLayersOffset;
using profile_format::kMaxFamilyLength;
using profile_format::kMinBytes;
using profile_format::kTokenMapDigestLength;
using profile_format::OrdersOf;

// Numbers are stored as they lie in memory.
static_assert(std::endian::native == std::endian::little);

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr uint64_t kPieceRows = kPieceBytes / sizeof(uint32_t);

absl::Status Damaged() {
  return absl::DataLossError("a profile whose parts do not add up to its size");
}

// `status` of a rule, as an error of the file's.
absl::Status Impossible(const absl::Status& status) {
  if (status.ok()) return status;
  return absl::DataLossError(absl::StrCat("an impossible profile: ", status.message()));
}

absl::Status InFile(const absl::Status& status, const std::string& path) {
  if (status.ok() || absl::IsUnavailable(status)) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::Status FromErrno(const char* doing, const std::string& path) {
  const std::string text = absl::StrCat(doing, " ", path, ": ", std::strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

// Goes through the head's rows in order: gives each its count, and checks what can be checked
// without remembering all of them.
class HeadWalk {
 public:
  explicit HeadWalk(const LayerProfile& layer) : layer_(layer), classes_(layer.Classes()) {}

  absl::StatusOr<HotRow> Next(uint32_t id) {
    if (at_ < classes_.size() && in_class_ == classes_[at_].rows) {
      ++at_;
      in_class_ = 0;
    }
    if (at_ == classes_.size()) {
      return absl::DataLossError("an impossible profile: a head of rows that nobody asked for");
    }
    if (id >= layer_.rows || (in_class_ > 0 && id <= before_)) {
      return absl::DataLossError(absl::StrCat("an impossible profile: row ", id, " of layer ",
                                              Raw(layer_.id), " is not there, or out of order"));
    }
    ++in_class_;
    before_ = id;
    return HotRow{RowId{id}, static_cast<uint32_t>(classes_[at_].count)};
  }

 private:
  const LayerProfile& layer_;
  const std::vector<CountClass> classes_;
  size_t at_ = 0;
  uint64_t in_class_ = 0;
  uint32_t before_ = 0;
};

}  // namespace

// The file's bytes from front to back, all but its digest, which they are summed up for.
class ProfileFile::Stream {
 public:
  Stream(const Source& source, uint64_t bytes) : source_(source), end_(bytes - kDigestLength) {}

  uint64_t offset() const { return offset_ - (piece_.size() - at_); }
  uint64_t left() const { return end_ - offset(); }

  absl::Status Take(void* out, size_t bytes) {
    if (bytes > left()) return Damaged();
    auto* to = static_cast<char*>(out);
    while (bytes > 0) {
      if (at_ == piece_.size()) ENGRAM_RETURN_IF_ERROR(Refill());
      const size_t taken = std::min(bytes, piece_.size() - at_);
      std::memcpy(to, piece_.data() + at_, taken);
      at_ += taken;
      to += taken;
      bytes -= taken;
    }
    return absl::OkStatus();
  }
  template <typename T>
  absl::StatusOr<T> Take() {
    T value{};
    ENGRAM_RETURN_IF_ERROR(Take(&value, sizeof value));
    return value;
  }
  absl::StatusOr<std::string> TakeText(size_t bytes) {
    std::string text(bytes, '\0');
    ENGRAM_RETURN_IF_ERROR(Take(text.data(), bytes));
    return text;
  }
  // To be called when nothing is left.
  absl::Status CheckDigest() {
    std::string found(kDigestLength, '\0');
    ENGRAM_ASSIGN_OR_RETURN(const size_t got, source_(end_, absl::MakeSpan(found)));
    if (got == kDigestLength && found == digest_.Hex()) return absl::OkStatus();
    return absl::DataLossError("a damaged profile: its digest is not that of its bytes");
  }

 private:
  absl::Status Refill() {
    piece_.resize(std::min<uint64_t>(kPieceBytes, end_ - offset_));
    at_ = 0;
    ENGRAM_ASSIGN_OR_RETURN(const size_t got, source_(offset_, absl::MakeSpan(piece_)));
    offset_ += piece_.size();
    if (got != piece_.size()) return Damaged();
    digest_.Update(absl::string_view(piece_));
    return absl::OkStatus();
  }

  const Source& source_;
  const uint64_t end_;
  Digest digest_;
  uint64_t offset_ = 0;  // behind the piece
  std::string piece_;
  size_t at_ = 0;
};

absl::StatusOr<LayerProfile> ProfileFile::ScanLayer(Stream& in, uint64_t& classes_left) {
  LayerProfile layer;
  ENGRAM_ASSIGN_OR_RETURN(const auto id, in.Take<int32_t>());
  layer.id = LayerId{id};
  ENGRAM_ASSIGN_OR_RETURN(const auto columns, in.Take<uint32_t>());
  ENGRAM_ASSIGN_OR_RETURN(layer.rows, in.Take<uint64_t>());
  Head head;
  ENGRAM_ASSIGN_OR_RETURN(head.rows, in.Take<uint64_t>());
  if (columns > kMaxColumns || layer.rows > kMaxLayerRows) return Damaged();
  layer.columns.resize(columns);
  for (ProfiledColumn& column : layer.columns) {
    ENGRAM_ASSIGN_OR_RETURN(column.order, in.Take<int32_t>());
    ENGRAM_ASSIGN_OR_RETURN(column.rows, in.Take<uint64_t>());
  }
  for (const int32_t order : OrdersOf(layer.columns)) {
    ENGRAM_ASSIGN_OR_RETURN(const auto classes, in.Take<uint32_t>());
    if (classes > in.left() / sizeof(CountClass)) return Damaged();
    if (classes > classes_left) {
      return absl::FailedPreconditionError(
          absl::StrCat("a profile of more than ", kMaxClasses, " different frequencies of rows"));
    }
    classes_left -= classes;
    OrderProfile& profile = layer.orders.emplace_back();
    profile.order = order;
    profile.classes.resize(classes);
    for (CountClass& each : profile.classes) {
      ENGRAM_ASSIGN_OR_RETURN(each.count, in.Take<uint64_t>());
      ENGRAM_ASSIGN_OR_RETURN(each.rows, in.Take<uint64_t>());
    }
  }
  ENGRAM_RETURN_IF_ERROR(Impossible(CheckLayerOutline(layer)));
  head.offset = in.offset();
  if (head.rows > in.left() / sizeof(uint32_t)) return Damaged();
  HeadWalk walk(layer);
  for (uint64_t i = 0; i < head.rows; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(const auto row, in.Take<uint32_t>());
    ENGRAM_RETURN_IF_ERROR(walk.Next(row).status());
  }
  heads_.push_back(head);
  return layer;
}

absl::Status ProfileFile::ScanAll(uint64_t bytes) {
  std::string first(std::min<uint64_t>(bytes, kFirstBytes), '\0');
  ENGRAM_ASSIGN_OR_RETURN(const size_t got, source_(0, absl::MakeSpan(first)));
  first.resize(got);
  ENGRAM_RETURN_IF_ERROR(CheckFirstBytes(first, bytes));
  if (bytes < kMinBytes + kDigestLength) {
    return absl::DataLossError(absl::StrCat("a profile of only ", bytes, " bytes"));
  }
  uint32_t layers = 0;
  std::memcpy(&layers, first.data() + kLayersOffset, sizeof layers);
  if (layers > kMaxLayers) return Damaged();
  Stream in(source_, bytes);
  ENGRAM_RETURN_IF_ERROR(in.TakeText(kFirstBytes).status());
  ENGRAM_ASSIGN_OR_RETURN(outline_.tokens, in.Take<uint64_t>());
  ENGRAM_ASSIGN_OR_RETURN(outline_.sequences, in.Take<uint64_t>());
  ENGRAM_ASSIGN_OR_RETURN(outline_.fingerprint, in.TakeText(kFingerprintLength));
  ENGRAM_ASSIGN_OR_RETURN(outline_.token_map_digest, in.TakeText(kTokenMapDigestLength));
  if (outline_.token_map_digest == std::string(kTokenMapDigestLength, '\0')) {
    outline_.token_map_digest.clear();
  }
  ENGRAM_ASSIGN_OR_RETURN(const auto family, in.Take<uint32_t>());
  if (family > kMaxFamilyLength) return Damaged();
  ENGRAM_ASSIGN_OR_RETURN(outline_.family, in.TakeText(family));
  uint64_t classes_left = kMaxClasses;
  for (uint32_t i = 0; i < layers; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(LayerProfile layer, ScanLayer(in, classes_left));
    outline_.layers.push_back(std::move(layer));
  }
  if (in.left() > 0) return Damaged();
  ENGRAM_RETURN_IF_ERROR(in.CheckDigest());
  return Impossible(CheckOutline(outline_));
}

absl::StatusOr<ProfileFile> ProfileFile::Scan(uint64_t bytes, Source source) {
  ProfileFile file(std::move(source));
  ENGRAM_RETURN_IF_ERROR(file.ScanAll(bytes));
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
  auto file = Scan(static_cast<uint64_t>(info.st_size), read);
  if (!file.ok()) return InFile(file.status(), path);
  return file;
}

absl::Status ProfileFile::VisitHead(size_t layer,
                                    const std::function<absl::Status(const HotRow&)>& visit) const {
  const Head& head = heads_[layer];
  HeadWalk walk(outline_.layers[layer]);
  std::vector<uint32_t> ids;
  for (uint64_t done = 0; done < head.rows; done += ids.size()) {
    ids.resize(std::min(kPieceRows, head.rows - done));
    const absl::Span<char> bytes(reinterpret_cast<char*>(ids.data()),
                                 ids.size() * sizeof(uint32_t));
    ENGRAM_ASSIGN_OR_RETURN(const size_t got,
                            source_(head.offset + done * sizeof(uint32_t), bytes));
    if (got != bytes.size()) return Damaged();
    for (const uint32_t id : ids) {
      ENGRAM_ASSIGN_OR_RETURN(const HotRow row, walk.Next(id));
      ENGRAM_RETURN_IF_ERROR(visit(row));
    }
  }
  return absl::OkStatus();
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
    ENGRAM_RETURN_IF_ERROR(Impossible(CheckRepeats(layer)));
  }
  return profile;
}

absl::StatusOr<RowProfile> RowProfile::Parse(absl::string_view bytes) {
  const auto read = [bytes](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    const size_t from = std::min<uint64_t>(offset, bytes.size());
    return bytes.copy(out.data(), out.size(), from);
  };
  ENGRAM_ASSIGN_OR_RETURN(const ProfileFile file, ProfileFile::Scan(bytes.size(), read));
  return file.ReadAll();
}

absl::StatusOr<RowProfile> RowProfile::Read(const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const ProfileFile file, ProfileFile::Open(path));
  auto profile = file.ReadAll();
  if (!profile.ok()) return InFile(profile.status(), path);
  return profile;
}

}  // namespace engram
