#include "storage/profile/hot_writer.h"

#include <array>
#include <cassert>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/profile/profile_format.h"

namespace engram {
namespace {

using profile_format::kDigestLength;
using profile_format::kFormat;
using profile_format::kMagic;
using profile_format::kTokenMapDigestLength;

template <typename T>
void Put(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void PutText(std::string& out, absl::string_view text) {
  Put(out, static_cast<uint32_t>(text.size()));
  absl::StrAppend(&out, text);
}

// A block of rows that are sorted by descending count.
std::string BlockOf(absl::Span<const HotRow> rows) {
  std::string out;
  out.reserve(sizeof(uint32_t) * (1 + 3 * rows.size()));
  uint32_t runs = 0;
  Put(out, runs);
  for (size_t i = 0; i < rows.size(); ++runs) {
    uint32_t length = 0;
    const uint32_t count = rows[i].count;
    for (; i < rows.size() && rows[i].count == count; ++i) ++length;
    Put(out, count);
    Put(out, length);
  }
  std::memcpy(out.data(), &runs, sizeof runs);
  for (const HotRow& row : rows) Put(out, Raw(row.id));
  return out;
}

// Live rows by descending count, of equal count in the order in which they came. A fraction of the
// time of std::stable_sort, which would be felt when a daemon stops.
std::vector<HotRow> SortedByCount(absl::Span<const HotRow> rows) {
  std::array<uint32_t, kMaxLiveCount + 2> first{};  // place of the rows with the count 255 − index
  for (const HotRow& row : rows) ++first[kMaxLiveCount - row.count + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<HotRow> sorted(rows.size());
  for (const HotRow& row : rows) sorted[first[kMaxLiveCount - row.count]++] = row;
  return sorted;
}

}  // namespace

HotWriter::HotWriter(HotHeader header, Sink sink)
    : header_(std::move(header)), sink_(std::move(sink)) {
  assert(profile_format::CheckHeader(header_).ok());
}

absl::Status HotWriter::BeginLayer(const LayerProfile& outline) {
  ENGRAM_RETURN_IF_ERROR(layers_ == 0 ? WriteHeader() : EndLayer());
  assert(layers_ < header_.layers);
  ++layers_;
  std::string part;
  Put(part, Raw(outline.id));
  Put(part, static_cast<uint32_t>(outline.columns.size()));
  Put(part, outline.rows);
  for (const ProfiledColumn& column : outline.columns) {
    Put(part, column.order);
    Put(part, column.rows);
  }
  for (const OrderProfile& order : outline.orders) {
    Put(part, static_cast<uint32_t>(order.classes.size()));
    for (const CountClass& each : order.classes) {
      Put(part, each.count);
      Put(part, each.rows);
    }
  }
  chain_ = header_digest_;
  return WritePart(part);
}

absl::Status HotWriter::Add(RowId id, uint32_t count) {
  assert(count >= 1 && (header_.kind != HotKind::kLive || count <= kMaxLiveCount));
  rows_.push_back({id, count});
  return rows_.size() < kHotBlockRows ? absl::OkStatus() : WriteBlock();
}

absl::Status HotWriter::Finish() {
  assert(layers_ == header_.layers);
  ENGRAM_RETURN_IF_ERROR(EndLayer());
  return WriteBytes(end_.Hex());
}

absl::Status HotWriter::WriteHeader() {
  std::string part(kMagic);
  Put(part, kFormat);
  Put(part, header_.kind);
  Put(part, header_.layers);
  Put(part, header_.tokens);
  Put(part, header_.sequences);
  part += header_.fingerprint;
  part += header_.token_map_digest.empty() ? std::string(kTokenMapDigestLength, '\0')
                                           : header_.token_map_digest;
  PutText(part, header_.family);
  PutText(part, header_.table);
  ENGRAM_RETURN_IF_ERROR(WritePart(part));
  header_digest_ = chain_;
  end_.Update(chain_);
  return absl::OkStatus();
}

absl::Status HotWriter::WriteBlock() {
  if (header_.kind == HotKind::kLive) rows_ = SortedByCount(rows_);
  const std::string part = BlockOf(rows_);
  rows_.clear();
  return WritePart(part);
}

// A block without runs ends the layer.
absl::Status HotWriter::EndLayer() {
  if (!rows_.empty()) ENGRAM_RETURN_IF_ERROR(WriteBlock());
  ENGRAM_RETURN_IF_ERROR(WriteBlock());
  end_.Update(chain_);
  return absl::OkStatus();
}

// A part of the file, and its digest: of the digest before it and its bytes.
absl::Status HotWriter::WritePart(absl::string_view bytes) {
  Digest digest;
  digest.Update(chain_);
  digest.Update(bytes);
  chain_ = digest.Hex();
  ENGRAM_RETURN_IF_ERROR(WriteBytes(bytes));
  return WriteBytes(chain_);
}

absl::Status HotWriter::WriteBytes(absl::string_view bytes) {
  written_ += bytes.size();
  if (header_.kind == HotKind::kProfile && written_ > kMaxProfileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a profile of more than ", kMaxProfileBytes, " bytes; take a smaller head"));
  }
  return sink_(bytes);
}

}  // namespace engram
