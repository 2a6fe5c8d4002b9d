// A profile's file: what is read must be written as the same bytes again. A fuzzer cannot guess a
// digest, so its bytes are also tried with the size and the digest that they should have. A visit
// of the heads must see what the whole profile has, and refuse what it refuses, but for rows that
// stand twice, which only the whole one shows.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "storage/profile/profile_file.h"
#include "storage/profile/row_profile.h"
#include "storage/table/digest.h"

namespace {

absl::StatusOr<engram::RowProfile> ReadInPieces(absl::string_view bytes) {
  const auto source = [bytes](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    const size_t from = std::min<size_t>(offset, bytes.size());
    const size_t count = std::min(out.size(), bytes.size() - from);
    if (count > 0) std::memcpy(out.data(), bytes.data() + from, count);
    return count;
  };
  const auto file = engram::ProfileFile::Scan(bytes.size(), source);
  if (!file.ok()) return file.status();
  engram::RowProfile profile = file->outline();
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    const absl::Status status = file->VisitHead(i, [&](const engram::HotRow& row) {
      profile.layers[i].head.push_back(row);
      return absl::OkStatus();
    });
    if (!status.ok()) std::abort();  // it was good when it was scanned
  }
  return profile;
}

void Try(absl::string_view bytes) {
  const auto profile = engram::RowProfile::Parse(bytes);
  const auto pieces = ReadInPieces(bytes);
  const bool may_differ = absl::StrContains(profile.status().message(), "twice");
  if (profile.ok() != pieces.ok() && !may_differ) std::abort();
  if (profile.ok() && *profile != *pieces) std::abort();
  if (!profile.ok()) return;
  const auto again = profile->Serialize();
  if (!again.ok() || *again != bytes) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  Try(bytes);
  if (size < 24 + 32) return 0;
  bytes.resize(size - 32);
  const uint64_t whole = size;
  std::memcpy(bytes.data() + 16, &whole, sizeof whole);
  engram::Digest digest;
  digest.Update(bytes);
  Try(bytes + digest.Hex());
  return 0;
}
