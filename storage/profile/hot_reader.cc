#include "storage/profile/hot_reader.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/profile/profile_format.h"
#include "storage/table/addressing.h"
#include "storage/table/spec.h"

namespace engram {
namespace {

using profile_format::CheckHeader;
using profile_format::CheckLayerOutline;
using profile_format::kDigestLength;
using profile_format::kFingerprintLength;
using profile_format::kFormat;
using profile_format::kMagic;
using profile_format::kMaxFamilyLength;
using profile_format::kOldMagic;
using profile_format::kTokenMapDigestLength;
using profile_format::OrdersOf;

// Numbers are stored as they lie in memory.
static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(CountClass) == 16 && sizeof(RowId) == 4);

// Arrays grow by so much as their bytes come.
constexpr size_t kPieceBytes = size_t{64} << 10;

// `status` of a rule, as an error of the file's.
absl::Status Impossible(const absl::Status& status) {
  if (status.ok()) return status;
  return absl::DataLossError(absl::StrCat("an impossible profile: ", status.message()));
}

std::string NameOf(const HotIdentity& identity) {
  return absl::StrCat(HotKindName(identity.kind), " rows of table '", identity.table,
                      "', addressing ", identity.fingerprint, ", layer ", Raw(identity.layer),
                      " of ", identity.rows, " rows");
}

}  // namespace

absl::Status HotReader::Damaged(absl::string_view what) const {
  return absl::DataLossError(absl::StrCat(kind_ == HotKind::kLive ? "live rows" : "a profile",
                                          ", damaged or cut off before byte ", offset_, ": ",
                                          what));
}

absl::Status HotReader::Fill(absl::Span<char> out) {
  if (out.empty()) return absl::OkStatus();
  if (kind_ == HotKind::kProfile && out.size() > kMaxProfileBytes - offset_) {
    return Damaged(absl::StrCat("a profile has at most ", kMaxProfileBytes, " bytes"));
  }
  ENGRAM_ASSIGN_OR_RETURN(const size_t got, source_(out));
  offset_ += got;
  return got == out.size() ? absl::OkStatus() : Damaged("it ends too early");
}

absl::Status HotReader::Take(void* out, size_t bytes) {
  const absl::Span<char> span(static_cast<char*>(out), bytes);
  ENGRAM_RETURN_IF_ERROR(Fill(span));
  part_->Update(absl::string_view(span.data(), span.size()));
  return absl::OkStatus();
}

// Without `out` it is only read.
template <typename T>
absl::Status HotReader::TakeArray(uint64_t count, std::vector<T>* out) {
  std::vector<T> piece;
  for (uint64_t done = 0; done < count; done += piece.size()) {
    piece.resize(std::min<uint64_t>(count - done, kPieceBytes / sizeof(T)));
    ENGRAM_RETURN_IF_ERROR(Take(piece.data(), piece.size() * sizeof(T)));
    if (out != nullptr) out->insert(out->end(), piece.begin(), piece.end());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> HotReader::TakeText(size_t bytes) {
  std::string text(bytes, '\0');
  ENGRAM_RETURN_IF_ERROR(Take(text.data(), bytes));
  return text;
}

// One with its length before it.
absl::StatusOr<std::string> HotReader::TakeShortText(size_t most) {
  uint32_t length = 0;
  ENGRAM_RETURN_IF_ERROR(Take(&length, sizeof length));
  if (length > most) return Damaged(absl::StrCat("a name of ", length, " bytes"));
  return TakeText(length);
}

void HotReader::BeginPart(absl::string_view digest_before) {
  part_ = std::make_unique<Digest>();
  part_->Update(digest_before);
}

// Compares the part that was read with the digest that comes next.
absl::Status HotReader::CheckDigest() {
  std::string found(kDigestLength, '\0');
  ENGRAM_RETURN_IF_ERROR(Fill(absl::MakeSpan(found)));
  if (found != part_->Hex()) return Damaged("the digest does not fit the bytes before it");
  chain_ = std::move(found);
  BeginPart(chain_);
  return absl::OkStatus();
}

absl::StatusOr<HotHeader> HotReader::ReadHeader() {
  BeginPart("");
  std::string magic(kMagic.size(), '\0');
  const absl::Status begun = Take(magic.data(), magic.size());
  if (!begun.ok() && !absl::IsDataLoss(begun)) return begun;
  if (magic == kOldMagic) {
    return absl::FailedPreconditionError(
        absl::StrCat("saved hotness of format 1, where this release knows ", kFormat));
  }
  if (magic != kMagic) {
    return absl::DataLossError("no profile of row frequencies (engramctl profile makes them)");
  }
  uint32_t format = 0;
  ENGRAM_RETURN_IF_ERROR(Take(&format, sizeof format));
  if (format != kFormat) {
    return absl::FailedPreconditionError(absl::StrCat("a profile of format ", format,
                                                      ", where this release knows ", kFormat,
                                                      "; make it anew with engramctl profile"));
  }
  HotHeader header;
  ENGRAM_RETURN_IF_ERROR(Take(&header.kind, sizeof header.kind));
  if (header.kind != HotKind::kProfile && header.kind != HotKind::kLive) {
    return Damaged(absl::StrCat("an unknown kind ", static_cast<uint32_t>(header.kind)));
  }
  ENGRAM_RETURN_IF_ERROR(Take(&header.layers, sizeof header.layers));
  ENGRAM_RETURN_IF_ERROR(Take(&header.tokens, sizeof header.tokens));
  ENGRAM_RETURN_IF_ERROR(Take(&header.sequences, sizeof header.sequences));
  ENGRAM_ASSIGN_OR_RETURN(header.fingerprint, TakeText(kFingerprintLength));
  ENGRAM_ASSIGN_OR_RETURN(header.token_map_digest, TakeText(kTokenMapDigestLength));
  if (header.token_map_digest == std::string(kTokenMapDigestLength, '\0')) {
    header.token_map_digest.clear();
  }
  ENGRAM_ASSIGN_OR_RETURN(header.family, TakeShortText(kMaxFamilyLength));
  ENGRAM_ASSIGN_OR_RETURN(header.table, TakeShortText(kMaxNameLength));
  ENGRAM_RETURN_IF_ERROR(CheckDigest());
  ENGRAM_RETURN_IF_ERROR(Impossible(CheckHeader(header)));
  kind_ = header.kind;
  header_digest_ = chain_;
  end_.Update(chain_);
  return header;
}

absl::StatusOr<LayerProfile> HotReader::ReadOutline() {
  BeginPart(header_digest_);
  LayerProfile layer;
  uint32_t columns = 0;
  ENGRAM_RETURN_IF_ERROR(Take(&layer.id, sizeof layer.id));
  ENGRAM_RETURN_IF_ERROR(Take(&columns, sizeof columns));
  ENGRAM_RETURN_IF_ERROR(Take(&layer.rows, sizeof layer.rows));
  if (columns > kMaxColumns) return Damaged(absl::StrCat(columns, " columns"));
  layer.columns.resize(columns);
  for (ProfiledColumn& column : layer.columns) {
    ENGRAM_RETURN_IF_ERROR(Take(&column.order, sizeof column.order));
    ENGRAM_RETURN_IF_ERROR(Take(&column.rows, sizeof column.rows));
  }
  bool too_many = false;
  ENGRAM_RETURN_IF_ERROR(TakeOrders(layer, too_many));
  ENGRAM_RETURN_IF_ERROR(CheckDigest());
  if (too_many) {
    return absl::FailedPreconditionError(
        absl::StrCat("a profile of more than ", kMaxClasses, " different frequencies of rows"));
  }
  if (layer_.has_value() && *layer_ >= layer.id) {
    return Damaged(absl::StrCat("layer ", Raw(layer.id), " follows layer ", Raw(*layer_)));
  }
  ENGRAM_RETURN_IF_ERROR(Impossible(CheckLayerOutline(kind_, layer)));
  layer_ = layer.id;
  rules_.emplace(kind_, layer);
  return layer;
}

// Classes beyond those that fit are read for the digest alone, which tells whether there are more.
absl::Status HotReader::TakeOrders(LayerProfile& layer, bool& too_many) {
  for (const int32_t order : OrdersOf(layer.columns)) {
    uint32_t classes = 0;
    ENGRAM_RETURN_IF_ERROR(Take(&classes, sizeof classes));
    too_many = too_many || classes > classes_left_;
    OrderProfile& profile = layer.orders.emplace_back();
    profile.order = order;
    ENGRAM_RETURN_IF_ERROR(TakeArray(classes, too_many ? nullptr : &profile.classes));
    classes_left_ -= too_many ? 0 : classes;
  }
  return absl::OkStatus();
}

void HotReader::Resume(HotKind kind, const LayerProfile& outline, const Place& place) {
  kind_ = kind;
  offset_ = place.offset;
  chain_ = place.digest;
  BeginPart(chain_);
  rules_.emplace(kind, outline);
}

// Into runs_ and ids_; false at the layer's end.
absl::StatusOr<bool> HotReader::ReadBlock() {
  static_assert(sizeof(Run) == 8);
  uint32_t runs = 0;
  ENGRAM_RETURN_IF_ERROR(Take(&runs, sizeof runs));
  if (runs > kHotBlockRows) return Damaged(absl::StrCat("a block of ", runs, " runs"));
  runs_.resize(runs);
  ENGRAM_RETURN_IF_ERROR(Take(runs_.data(), runs * sizeof(Run)));
  uint64_t rows = 0;
  for (const Run& run : runs_) rows += run.rows;
  if (rows > kHotBlockRows) return Damaged(absl::StrCat("a block of ", rows, " rows"));
  ids_.resize(rows);
  ENGRAM_RETURN_IF_ERROR(Take(ids_.data(), rows * sizeof(RowId)));
  ENGRAM_RETURN_IF_ERROR(CheckDigest());
  return runs > 0;
}

absl::Status HotReader::CheckBlock() {
  size_t first = 0;
  for (size_t i = 0; i < runs_.size(); ++i) {
    const Run& run = runs_[i];
    if (run.rows == 0) return Damaged(absl::StrCat("no rows of the count ", run.count));
    if (i > 0 && run.count >= runs_[i - 1].count) {
      return Damaged(absl::StrCat("the count ", run.count, " follows ", runs_[i - 1].count));
    }
    const auto ids = absl::MakeConstSpan(ids_).subspan(first, run.rows);
    ENGRAM_RETURN_IF_ERROR(Impossible(rules_->Check({run.count, ids})));
    first += run.rows;
  }
  return absl::OkStatus();
}

absl::Status HotReader::ReadRows(const HotRunVisitor& visit) {
  bool full = true;
  while (true) {
    ENGRAM_ASSIGN_OR_RETURN(const bool more, ReadBlock());
    if (!more) break;
    if (!full) return Damaged("a block follows one that is not full");
    full = ids_.size() == kHotBlockRows;
    ENGRAM_RETURN_IF_ERROR(CheckBlock());
    size_t first = 0;
    for (const Run& run : runs_) {
      const auto ids = absl::MakeConstSpan(ids_).subspan(first, run.rows);
      ENGRAM_RETURN_IF_ERROR(visit({run.count, ids}));
      first += run.rows;
    }
  }
  end_.Update(chain_);
  return absl::OkStatus();
}

absl::Status HotReader::ReadEnd() {
  std::string found(kDigestLength, '\0');
  ENGRAM_RETURN_IF_ERROR(Fill(absl::MakeSpan(found)));
  if (found != end_.Hex()) return Damaged("the last digest does not fit the layers before it");
  char byte = 0;
  ENGRAM_ASSIGN_OR_RETURN(const size_t more, source_(absl::MakeSpan(&byte, 1)));
  return more == 0 ? absl::OkStatus() : Damaged("bytes follow the end");
}

absl::Status ReadHotLayer(const HotIdentity& wanted, HotReader::Source source,
                          const HotRunVisitor& visit) {
  HotReader reader(std::move(source));
  ENGRAM_ASSIGN_OR_RETURN(const HotHeader header, reader.ReadHeader());
  ENGRAM_ASSIGN_OR_RETURN(const LayerProfile outline, reader.ReadOutline());
  const HotIdentity found = {header.kind, header.table, header.fingerprint, outline.id,
                             outline.rows};
  if (found != wanted || header.layers != 1) {
    return absl::FailedPreconditionError(absl::StrCat("these are ", NameOf(found),
                                                      ", the first of ", header.layers,
                                                      " layers, not the ", NameOf(wanted)));
  }
  ENGRAM_RETURN_IF_ERROR(reader.ReadRows(visit));
  return reader.ReadEnd();
}

}  // namespace engram
