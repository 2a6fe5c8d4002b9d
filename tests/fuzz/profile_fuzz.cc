// HOT files of both kinds: what is read must be written as the same bytes again. A fuzzer cannot
// guess digests, so its bytes are also tried with those that they should have. A visit of a
// profile's heads must see what the whole profile has, and refuse what it refuses, but for rows
// that stand twice, which only the whole one shows.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "storage/base/status_macros.h"
#include "storage/profile/hot_reader.h"
#include "storage/profile/hot_writer.h"
#include "storage/profile/profile_file.h"
#include "storage/profile/row_profile.h"
#include "tests/unit/storage/profile/profile_testing.h"

namespace engram {
namespace {

absl::StatusOr<RowProfile> ReadInPieces(absl::string_view bytes) {
  const auto source = [bytes](uint64_t offset, absl::Span<char> out) -> absl::StatusOr<size_t> {
    return bytes.copy(out.data(), out.size(), std::min<size_t>(offset, bytes.size()));
  };
  ENGRAM_ASSIGN_OR_RETURN(const ProfileFile file, ProfileFile::Scan(source));
  RowProfile profile = file.outline();
  for (size_t i = 0; i < profile.layers.size(); ++i) {
    const absl::Status status = file.VisitHead(i, [&](const HotRow& row) {
      profile.layers[i].head.push_back(row);
      return absl::OkStatus();
    });
    if (!status.ok()) std::abort();  // it was good when it was scanned
  }
  return profile;
}

struct HotFile {
  HotHeader header;
  std::vector<LayerProfile> layers;
};

absl::StatusOr<HotFile> ReadAsStream(const std::string& bytes) {
  HotReader reader(SourceOf(bytes));
  HotFile file;
  ENGRAM_ASSIGN_OR_RETURN(file.header, reader.ReadHeader());
  for (uint32_t i = 0; i < file.header.layers; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(LayerProfile layer, reader.ReadOutline());
    ENGRAM_RETURN_IF_ERROR(reader.ReadRows([&layer](const HotRun& run) {
      for (const RowId id : run.ids) {
        if (Raw(id) >= layer.rows) std::abort();
        layer.head.push_back({id, run.count});
      }
      return absl::OkStatus();
    }));
    file.layers.push_back(std::move(layer));
  }
  ENGRAM_RETURN_IF_ERROR(reader.ReadEnd());
  return file;
}

std::string Written(const HotFile& file) {
  std::string bytes;
  HotWriter writer(file.header, [&bytes](absl::string_view more) {
    absl::StrAppend(&bytes, more);
    return absl::OkStatus();
  });
  bool good = true;
  for (const LayerProfile& layer : file.layers) {
    good = good && writer.BeginLayer(layer).ok();
    for (const HotRow& row : layer.head) good = good && writer.Add(row.id, row.count).ok();
  }
  if (!good || !writer.Finish().ok()) std::abort();
  return bytes;
}

void Try(const std::string& bytes) {
  const auto file = ReadAsStream(bytes);
  const auto profile = RowProfile::Parse(bytes);
  const auto pieces = ReadInPieces(bytes);
  if (file.ok() && Written(*file) != bytes) std::abort();
  const bool no_profile =
      file.ok() && (file->header.kind == HotKind::kLive || !file->header.table.empty());
  if (pieces.ok() != (file.ok() && !no_profile)) std::abort();
  const bool may_differ = absl::StrContains(profile.status().message(), "twice");
  if (profile.ok() != pieces.ok() && !may_differ) std::abort();
  if (profile.ok() && *profile != *pieces) std::abort();
  if (!profile.ok()) return;
  const auto again = profile->Serialize();
  if (!again.ok() || *again != bytes) std::abort();
}

}  // namespace
}  // namespace engram

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  engram::Try(bytes);
  engram::Try(engram::HotSealer::Seal(bytes));
  return 0;
}
