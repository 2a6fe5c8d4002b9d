#include "storage/dram/hotness_file.h"

#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/hotness.h"

namespace engram {
namespace {

constexpr absl::string_view kMagic = "engrhot1";
constexpr uint32_t kVersion = 1;
constexpr size_t kDigestBytes = 32;
constexpr size_t kEntryBytes = 5;

static_assert(std::endian::native == std::endian::little);

void AppendNumber(std::string& out, uint32_t number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof(number));
}
uint32_t NumberAt(const char* bytes) {
  uint32_t number = 0;
  std::memcpy(&number, bytes, sizeof(number));
  return number;
}

// Reads a file from its start on and digests what it has read.
class Reader {
 public:
  explicit Reader(const HotnessSource& source) : source_(source) {}

  uint64_t offset() const { return offset_; }

  absl::StatusOr<absl::string_view> Take(size_t bytes) {
    ENGRAM_RETURN_IF_ERROR(Fill(bytes));
    digest_.Update(absl::string_view(buffer_));
    return absl::string_view(buffer_);
  }
  absl::StatusOr<uint32_t> TakeNumber() {
    ENGRAM_ASSIGN_OR_RETURN(const absl::string_view bytes, Take(sizeof(uint32_t)));
    return NumberAt(bytes.data());
  }
  // Compares what was read so far with the digest that comes next.
  absl::Status CheckDigest() {
    const std::string wanted = digest_.Hex();
    ENGRAM_RETURN_IF_ERROR(Fill(kDigestBytes));
    if (buffer_ != wanted) return Damaged("the digest does not fit the bytes before it");
    digest_.Update(absl::string_view(buffer_));
    return absl::OkStatus();
  }
  absl::Status CheckEnd() {
    char byte = 0;
    ENGRAM_ASSIGN_OR_RETURN(const size_t more, source_(absl::MakeSpan(&byte, 1)));
    return more == 0 ? absl::OkStatus() : Damaged("bytes follow the end");
  }
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat("saved hotness, before offset ", offset_, ": ", what,
                                            "; it is left out, and learned anew"));
  }

 private:
  absl::Status Fill(size_t bytes) {
    buffer_.resize(bytes);
    ENGRAM_ASSIGN_OR_RETURN(const size_t got, source_(absl::MakeSpan(buffer_.data(), bytes)));
    offset_ += got;
    return got == bytes ? absl::OkStatus() : Damaged("it ends too early");
  }

  const HotnessSource& source_;
  Digest digest_;
  std::string buffer_;
  uint64_t offset_ = 0;
};

absl::Status ReadHeader(absl::string_view identity, Reader& reader) {
  ENGRAM_ASSIGN_OR_RETURN(const absl::string_view magic, reader.Take(kMagic.size()));
  if (magic != kMagic) return reader.Damaged("this is no saved hotness");
  ENGRAM_ASSIGN_OR_RETURN(const uint32_t version, reader.TakeNumber());
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("saved hotness of version ", version, "; this program knows ", kVersion));
  }
  ENGRAM_ASSIGN_OR_RETURN(const uint32_t length, reader.TakeNumber());
  if (length > kMostHotnessIdentity) {
    return reader.Damaged(absl::StrCat("an identity of ", length, " bytes"));
  }
  ENGRAM_ASSIGN_OR_RETURN(const absl::string_view bytes, reader.Take(length));
  const std::string found(bytes);
  ENGRAM_RETURN_IF_ERROR(reader.CheckDigest());
  if (found == identity) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("saved hotness is of \"", found, "\", not of \"", identity, "\""));
}

// Reports a block's rows, whose digest was right.
absl::Status ReportRows(absl::string_view entries, uint64_t rows, const Reader& reader,
                        const HotRowVisitor& visit) {
  for (size_t at = 0; at < entries.size(); at += kEntryBytes) {
    const uint32_t row_id = NumberAt(&entries[at]);
    const auto count = static_cast<uint8_t>(entries[at + 4]);
    if (row_id >= rows || count == 0) {
      return reader.Damaged(
          absl::StrCat("row ", row_id, " of ", rows, " with the count ", int{count}));
    }
    visit(row_id, count);
  }
  return absl::OkStatus();
}

}  // namespace

HotnessWriter::HotnessWriter(absl::string_view identity, Sink sink) : sink_(std::move(sink)) {
  assert(identity.size() <= kMostHotnessIdentity);
  header_ = std::string(kMagic);
  AppendNumber(header_, kVersion);
  AppendNumber(header_, static_cast<uint32_t>(identity.size()));
  absl::StrAppend(&header_, identity);
}

absl::Status HotnessWriter::Add(uint32_t row_id, uint32_t count) {
  assert(count >= 1 && count <= dram::kMaxCount);
  AppendNumber(entries_, row_id);
  entries_.push_back(static_cast<char>(count));
  return ++pending_ < kHotnessBlockRows ? absl::OkStatus() : WriteBlock();
}

absl::Status HotnessWriter::Finish() {
  if (pending_ > 0) ENGRAM_RETURN_IF_ERROR(WriteBlock());
  return WriteBlock();
}

// The rows that are pending; none of them is the end.
absl::Status HotnessWriter::WriteBlock() {
  if (!header_.empty()) {
    ENGRAM_RETURN_IF_ERROR(Write(header_));
    header_.clear();
  }
  std::string block;
  AppendNumber(block, pending_);
  absl::StrAppend(&block, entries_);
  entries_.clear();
  pending_ = 0;
  return Write(block);
}

// The bytes, and the digest up to here.
absl::Status HotnessWriter::Write(absl::string_view bytes) {
  digest_.Update(bytes);
  ENGRAM_RETURN_IF_ERROR(sink_(bytes));
  const std::string digest = digest_.Hex();
  digest_.Update(digest);
  return sink_(digest);
}

absl::Status ReadHotness(absl::string_view identity, uint64_t rows, const HotnessSource& source,
                         const HotRowVisitor& visit) {
  Reader reader(source);
  ENGRAM_RETURN_IF_ERROR(ReadHeader(identity, reader));
  while (true) {
    ENGRAM_ASSIGN_OR_RETURN(const uint32_t entries, reader.TakeNumber());
    if (entries > kHotnessBlockRows) {
      return reader.Damaged(absl::StrCat("a block of ", entries, " rows"));
    }
    ENGRAM_ASSIGN_OR_RETURN(const absl::string_view bytes, reader.Take(entries * kEntryBytes));
    const std::string block(bytes);
    ENGRAM_RETURN_IF_ERROR(reader.CheckDigest());
    if (entries == 0) return reader.CheckEnd();
    ENGRAM_RETURN_IF_ERROR(ReportRows(block, rows, reader, visit));
  }
}

}  // namespace engram
