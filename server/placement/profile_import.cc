#include "server/placement/profile_import.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "storage/base/status_macros.h"
#include "storage/dram/hotness.h"
#include "storage/profile/profile_file.h"

namespace engram {
namespace {

// A row, with its share of runs and digests.
constexpr uint64_t kBytesPerRow = 5;

uint64_t BytesOf(const LayerProfile& outline, uint64_t rows) {
  uint64_t bytes = rows * kBytesPerRow + outline.columns.size() * sizeof(ProfiledColumn);
  for (const OrderProfile& order : outline.orders) {
    bytes += order.classes.size() * sizeof(CountClass);
  }
  return bytes;
}

absl::StatusOr<ProfileFile> OpenChecked(const std::string& path, const TableSpec& spec) {
  ENGRAM_ASSIGN_OR_RETURN(ProfileFile file, ProfileFile::Open(path));
  if (const absl::Status status = file.outline().CheckFor(spec); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return file;
}

}  // namespace

uint8_t LevelOf(uint32_t count) {
  const double level = 1 + std::round(kLevelsPerDoubling * std::log2(std::max(count, 1u)));
  return static_cast<uint8_t>(std::min<double>(level, dram::kMaxCount));
}

double LevelRatio(uint8_t level, uint8_t other) {
  const int levels = int{level} - int{other};
  return std::exp2(levels / kLevelsPerDoubling);
}

HotRunVisitor ByLevel(HotRunVisitor visit) {
  return [visit = std::move(visit)](const HotRun& run) {
    return visit({LevelOf(run.count), run.ids});
  };
}

absl::Status CheckProfileFile(const std::string& path, const TableSpec& spec) {
  return OpenChecked(path, spec).status();
}

absl::Status ImportProfile(const std::string& path, const TableSpec& spec,
                           const HotnessFiles& files) {
  ENGRAM_ASSIGN_OR_RETURN(const ProfileFile file, OpenChecked(path, spec));
  const std::string fingerprint = AddressingFingerprint(spec);
  for (size_t i = 0; i < file.outline().layers.size(); ++i) {
    const LayerProfile& outline = file.outline().layers[i];
    ENGRAM_RETURN_IF_ERROR(
        files.Write({spec.name, fingerprint, outline.id}, HotnessFiles::Kind::kProfile, outline,
                    BytesOf(outline, file.head_rows(i)), [&](HotWriter& writer) {
                      return file.VisitHead(
                          i, [&](const HotRow& row) { return writer.Add(row.id, row.count); });
                    }));
  }
  return absl::OkStatus();
}

}  // namespace engram
